//! The walk-through of the README, run as it is written: what it tells a person to type is typed into one
//! shell, and what it says they will see is what they see. And the links between the documents.
//!
//! The shell blocks of the section run in order. A block of `json` or `text` behind one is its output, in
//! which `…` stands for ids, times and secrets. Only the two ports are others.
#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

use std::{collections::BTreeSet, env, fs, net::TcpListener, path::Path, process::Command};

const README: &str = include_str!("../README.md");
const SECTION: &str = "## A program from beginning to end";

/// What is typed, and what is then seen, where the text shows it.
struct Step {
    typed: String,
    seen: Option<String>,
}

/// The blocks of a section of the README.
fn steps(readme: &str) -> Vec<Step> {
    let (_, section) = readme.split_once(SECTION).expect("the README has the section");
    let section = section.split("\n## ").next().unwrap();
    let mut steps: Vec<Step> = Vec::new();
    // What is between fences comes at the odd places.
    for block in section.split("\n```").skip(1).step_by(2) {
        let (kind, text) = block.split_once('\n').unwrap();
        match kind {
            "sh" => steps.push(Step { typed: text.to_owned(), seen: None }),
            "json" | "text" => {
                let shown = &mut steps.last_mut().expect("an output stands behind a command").seen;
                assert!(shown.replace(text.to_owned()).is_none(), "two outputs of one command: {text}");
            }
            other => panic!("a block is sh, json or text, not {other:?}"),
        }
    }
    steps
}

/// Whether a line is the one that was expected, where `…` stands for anything.
fn is_like(expected: &str, line: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[track_caller]
fn assert_seen(step: &Step, output: &str) {
    let Some(seen) = &step.seen else { return };
    let (expected, lines): (Vec<&str>, Vec<&str>) =
        (seen.lines().collect(), output.trim_end().lines().collect());
    let same = expected.len() == lines.len()
        && expected.iter().zip(&lines).all(|(expected, line)| is_like(expected, line));
    assert!(same, "after\n{}\nthe README shows\n{seen}\nand there is\n{output}", step.typed);
}

/// Separates the outputs of the steps; no output holds it.
const SEPARATOR: char = '\u{1e}';

/// The shell stops at the first error, and takes the server with it.
fn script(steps: &[Step]) -> String {
    let mut script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned();
    for step in steps {
        script.push_str(&step.typed);
        script.push_str("\nprintf '\\036'\n");
    }
    script
}

/// Ports of this machine that nobody listens on, all different.
fn free_ports<const N: usize>() -> [u16; N] {
    let taken = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    taken.map(|listener| listener.local_addr().unwrap().port())
}

/// Whether the programs that the text uses beside `remit` are there.
fn is_equipped() -> bool {
    let missing: Vec<&str> = ["bash", "curl", "jq", "openssl"]
        .into_iter()
        .filter(|program| Command::new(program).arg("--version").output().is_err())
        .collect();
    assert!(missing.is_empty() || env::var_os("CI").is_none(), "install {missing:?}");
    if !missing.is_empty() {
        eprintln!("passed over: {missing:?} are not installed");
    }
    missing.is_empty()
}

#[test]
fn the_walk_through_of_the_readme_does_what_it_says() {
    if !is_equipped() {
        return;
    }
    let [listen, ops] = free_ports();
    let readme = README
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{listen}"))
        .replace("127.0.0.1:9090", &format!("127.0.0.1:{ops}"));
    let steps = steps(&readme);
    assert!(steps.iter().filter(|step| step.seen.is_some()).count() >= 10, "the section shows what happens");
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("walk.sh"), script(&steps)).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_remit")).parent().unwrap();
    let path = env::join_paths(
        [programs.to_owned()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())),
    );
    let mut command = Command::new("bash");
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy().to_lowercase();
        if name_text.starts_with("remit_") || name_text.ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    let ran = command
        .arg("walk.sh")
        .current_dir(directory.path())
        .env("PATH", path.unwrap())
        .env("HOME", directory.path())
        .env("REMIT_SERVER__LISTEN", format!("127.0.0.1:{listen}"))
        .env("REMIT_SERVER__OPS_LISTEN", format!("127.0.0.1:{ops}"))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    for (step, output) in steps.iter().zip(out.split(SEPARATOR)) {
        assert_seen(step, output);
    }
    let log = fs::read_to_string(directory.path().join("remit.log")).unwrap_or_default();
    assert!(ran.status.success(), "{}: {out}\n{err}\n{log}", ran.status);
    assert_eq!(out.matches(SEPARATOR).count(), steps.len());
}

/// The anchors that GitHub makes of the headings of a document.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
    };
    headings.map(anchor).collect()
}

/// Where the links of a document lead, but for those to other hosts.
fn links(document: &str) -> Vec<&str> {
    let targets = document.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).collect()
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("CHANGELOG.md")];
    documents.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut followed = 0;
    for path in documents {
        let document = fs::read_to_string(&path).unwrap();
        for link in links(&document) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name("").join(file) };
            let text = fs::read_to_string(&target).unwrap_or_else(|_| panic!("{}: {link}", path.display()));
            assert!(anchor.is_empty() || anchors(&text).contains(anchor), "{}: {link}", path.display());
            followed += 1;
        }
    }
    assert!(followed > 10, "{followed}");
}

#[test]
fn a_line_is_held_to_what_the_text_shows() {
    for (expected, line, is_same) in [
        ("aff_…", "aff_ab12cd", true),
        ("aff_…", "ref_ab12cd", false),
        (r#"{"id":"conv_…","n":1}"#, r#"{"id":"conv_9","n":1}"#, true),
        (r#"{"id":"conv_…","n":1}"#, r#"{"id":"conv_9","n":2}"#, false),
        ("a…b…c", "a1b2c", true),
        ("a…b…c", "a1c", false),
        ("same", "same", true),
        ("same", "same or not", false),
    ] {
        assert_eq!(is_like(expected, line), is_same, "{expected} {line}");
    }
}
