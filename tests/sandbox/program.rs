//! The command `remit sandbox`, from the outside; and that its code stands alone.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

/// A process that does not outlive its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is what was wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(arguments: &[&str]) -> (Program, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_remit"))
        .args(["sandbox", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Program(child), line.trim().to_owned())
}

fn get(address: &str, path: &str, key: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_says_where_it_listens_keeps_a_journal_and_stops_when_told() {
    let journal = tempfile::NamedTempFile::new().unwrap();
    let path = journal.path().to_str().unwrap();
    let arguments = ["--journal", path, "--seed", "5", "--frozen", "--start-at", "2026-01-01T00:00:00Z"];
    let (mut program, line) = start(&[&arguments[..], &["--secret-key", "sk_test_mine"]].concat());
    let address = line.strip_prefix("sandbox listens on http://").unwrap();
    assert!(get(address, "/v1/balance", "sk_test_mine").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/v1/balance", "sk_test_other").starts_with("HTTP/1.1 401"));
    let killed = Command::new("kill").args(["-TERM", &program.0.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(program.0.wait().unwrap().code(), Some(0));
    let written = fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["start", "request", "answer", "request", "answer"]);
    assert_eq!(
        (lines[0]["seed"].as_u64(), lines[4]["at_us"].as_i64()),
        (Some(5), Some(1_767_225_600_000_000))
    );
    assert!(!written.contains("sk_test"), "keys do not reach the journal");
}

#[test]
fn scripts_get_json() {
    let (_program, line) = start(&["--output", "json"]);
    let printed: Value = serde_json::from_str(&line).unwrap();
    let address = printed["data"]["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    assert!(get(address, "/_sandbox/state", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn what_cannot_be_understood_ends_with_code_2() {
    for arguments in [
        &["--webhook-url", "http://127.0.0.1:1/hook"][..],
        &["--start-at", "tomorrow"],
        &["--listen", "nowhere"],
    ] {
        let ended = Command::new(env!("CARGO_BIN_EXE_remit"))
            .arg("sandbox")
            .args(arguments)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(ended.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn its_code_shares_nothing_with_what_it_judges() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sandbox");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("crate::"), "{} uses code of the program", path.display());
        files += 1;
    }
    assert!(files > 15);
}
