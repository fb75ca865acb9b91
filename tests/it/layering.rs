//! The rules of the architecture as tests: who may import whom, where the engines and floats are named.
//!
//! They read the source text line by line, which is enough for code in one house style.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Module, and what of ours it may import. A module that is not listed here is a leaf: it imports
/// `domain` at most.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    // Whoever commits passes the points at which tests die. That is the stages, and the database layer where
    // it migrates: the one transaction that is not theirs.
    ("failpoint", &["domain"]),
    ("store", &["domain", "failpoint"]),
    ("providers", &["domain"]),
    ("transport", &["providers", LEAVES]),
    // An independent witness of the provider: it shares no code with the client.
    ("sandbox", &[]),
    ("mail", &["domain", LEAVES]),
    ("app", &["domain", "store", "providers", "transport", "mail", "failpoint", LEAVES]),
    ("http", &["domain", "store", "app", LEAVES]),
    ("cli", &["domain", "store", "transport", "mail", "app", "http", "sandbox", LEAVES]),
    ("main", &["domain", "store", "providers", "transport", "app", "http", "cli", "sandbox", LEAVES]),
];

/// Stands for every module that is not listed in [`ARROWS`].
const LEAVES: &str = "leaves";

struct Source {
    /// Path below `src`, such as `store/db.rs`.
    path: String,
    text: String,
}

impl Source {
    /// The top module that the file belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Numbered lines without comments. Strings that contain `//` lose their end, which no rule minds.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }

    /// As [`Self::code`], up to the module of unit tests.
    fn product_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().take_while(|(_, line)| line.trim() != "#[cfg(test)]")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_under(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_under(&path, found) } else { found.push(path) }
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut paths = Vec::new();
    files_under(&src, &mut paths);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(paths.len() > 5, "the sources are where the test looks");
    paths
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(),
        })
        .collect()
}

/// The top modules that a line of code names through `crate::` (or, from the binary, `remit::`).
fn imports(line: &str) -> Vec<&str> {
    let names = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    line.match_indices("crate::")
        .map(|(at, prefix)| (at, prefix.len()))
        .chain(line.match_indices("remit::").map(|(at, prefix)| (at, prefix.len())))
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$'))
        .flat_map(|(at, length)| {
            let rest = &line[at + length..];
            match rest.strip_prefix('{') {
                // `use crate::{app::App, store::Db}`: every name that starts an item of the list.
                Some(list) => {
                    let mut depth = 0;
                    let mut starts = vec![0];
                    for (index, c) in list.char_indices() {
                        match c {
                            '{' => depth += 1,
                            '}' => depth -= 1,
                            ',' if depth == 0 => starts.push(index + 1),
                            _ => {}
                        }
                    }
                    starts
                        .into_iter()
                        .map(|start| list[start..].trim_start())
                        .map(|item| &item[..names(item)])
                        .collect()
                }
                None => vec![&rest[..names(rest)]],
            }
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// Joins the lines of a `use` that rustfmt spread over several, so that [`imports`] sees it whole.
fn statements(source: &Source) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in source.code() {
        if open {
            let (_, statement) = joined.last_mut().unwrap();
            statement.push_str(line.trim());
        } else {
            joined.push((number, line.trim().to_owned()));
        }
        let (_, statement) = joined.last().unwrap();
        let is_use = ["use ", "pub use ", "pub(crate) use "].iter().any(|start| statement.starts_with(start));
        open = is_use && !statement.contains(';');
    }
    joined
}

fn wrong_arrows(sources: &[Source]) -> Vec<String> {
    let modules: BTreeSet<&str> = sources.iter().map(Source::module).filter(|name| *name != "lib").collect();
    let listed = |name: &str| ARROWS.iter().find(|(module, _)| *module == name).map(|(_, allowed)| *allowed);
    let mut wrong = Vec::new();
    for source in sources {
        let from = source.module();
        if from == "lib" {
            continue;
        }
        let allowed = listed(from).unwrap_or(&["domain", LEAVES]);
        for (number, statement) in statements(source) {
            for to in imports(&statement) {
                let kind = if listed(to).is_some() { to } else { LEAVES };
                if to != from && modules.contains(to) && !allowed.contains(&kind) {
                    wrong.push(format!("src/{}:{number}: `{from}` must not use `{to}`", source.path));
                }
            }
        }
    }
    wrong
}

/// `path:line: message` for every product line of the chosen files that contains one of `words`.
fn mentions(chosen: impl Fn(&Source) -> bool, words: &[&str]) -> Vec<String> {
    let is_word_at = |line: &str, at: usize, word: &str| {
        let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let starts_free = boundary(line[..at].chars().next_back());
        starts_free && (word.ends_with('!') || boundary(line[at + word.len()..].chars().next()))
    };
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| chosen(source)) {
        for (number, line) in source.product_code() {
            for word in words {
                if line.match_indices(word).any(|(at, _)| is_word_at(line, at, word)) {
                    found.push(format!("src/{}:{number}: `{word}`", source.path));
                }
            }
        }
    }
    found
}

#[track_caller]
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn modules_use_only_what_lies_below_them() {
    assert_none(&wrong_arrows(&sources()));
}

#[test]
fn a_wrong_arrow_is_found_in_every_way_to_write_it() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    for (path, text, wrong) in [
        ("domain/sale.rs", "use crate::store::Db;", 1),
        ("domain/sale.rs", "use crate::domain::money;", 0),
        ("domain/sale.rs", "// crate::store is far away", 0),
        ("store/jobs.rs", "let x = crate::providers::stripe::NAME;", 1),
        ("store/jobs.rs", "use crate::{\n    domain::{ids::JobId, money::Money},\n    app::App,\n};", 1),
        ("providers/stripe/facts.rs", "use crate::{store::Db, app::App};", 2),
        ("app/process.rs", "use crate::{clock::Clock, store::Db, providers::Inbound};", 0),
        ("store/jobs.rs", "use crate::clock::Clock;", 1),
        ("store/db.rs", "use crate::failpoint::Failpoint;", 0),
        ("http/webhooks.rs", "use crate::failpoint::Failpoint;", 1),
        ("clock.rs", "use crate::store::Db;", 1),
        ("transport.rs", "use crate::{config, providers::outbound::Reply};", 0),
        ("transport.rs", "use crate::store::Db;", 1),
        ("providers/stripe/facts.rs", "use crate::transport::Transport;", 1),
        ("http/webhooks.rs", "use crate::providers::stripe;", 1),
        ("main.rs", "remit::cli::run();", 0),
    ] {
        let mut all = vec![source(path, text)];
        for module in ["domain", "store", "providers", "transport", "app", "clock", "cli", "failpoint"] {
            all.push(source(&format!("{module}/mod.rs"), ""));
        }
        assert_eq!(wrong_arrows(&all).len(), wrong, "{path}: {text}");
    }
}

#[test]
fn only_the_dialect_and_the_database_layer_name_an_engine() {
    let home = ["store/dialect.rs", "store/db.rs"];
    assert_none(&mentions(
        |source| !home.contains(&source.path.as_str()),
        &["Engine::Sqlite", "Engine::Postgres", "SqlitePool", "PgPool", "PgConnection", "SqliteConnection"],
    ));
}

#[test]
fn of_the_store_only_the_database_layer_commits() {
    assert_none(&mentions(
        |source| source.module() == "store" && source.path != "store/db.rs",
        &["commit", "failpoint"],
    ));
}

#[test]
fn sql_is_never_built_from_pieces() {
    assert_none(&mentions(
        // The database layer alone runs whole migration files, and words its refusals.
        |source| {
            source.module() == "store" && !["store/dialect.rs", "store/db.rs"].contains(&source.path.as_str())
        },
        &["format!", "raw_sql"],
    ));
    assert_none(&mentions(|_| true, &["AssertSqlSafe", "QueryBuilder"]));
}

#[test]
fn transactions_are_opened_by_the_database_layer_alone() {
    assert_none(&mentions(
        |source| source.path != "store/dialect.rs",
        &["\"BEGIN", "\"COMMIT", "\"ROLLBACK", "\"SAVEPOINT"],
    ));
}

#[test]
fn no_float_comes_near_money() {
    assert_none(&mentions(|source| ["domain", "store"].contains(&source.module()), &["f32", "f64"]));
}

#[test]
fn migrations_come_in_pairs() {
    let names = |engine: &str| {
        let mut paths = Vec::new();
        files_under(&root().join("migrations").join(engine), &mut paths);
        paths
            .into_iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect::<BTreeSet<String>>()
    };
    let sqlite = names("sqlite");
    assert_eq!(sqlite, names("postgres"));
    assert!(!sqlite.is_empty());
    // Versions without gaps: two branches that add a migration meet here, not in a customer's database.
    let versions: Vec<u32> = sqlite.iter().map(|name| name[..4].parse().unwrap()).collect();
    assert_eq!(versions, (1..).take(versions.len()).collect::<Vec<u32>>());
}
