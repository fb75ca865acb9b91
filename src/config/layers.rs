//! The layers that a configuration is made of, one over the other, and how values are read out of them.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::{
    keys::{KEYS, OTHER_VARIABLES, file_setting, find_key, nearest, unknown, variable},
    problems::{Problem, Source, problem},
};

/// A value as text, with where it was written, for messages.
#[derive(Debug)]
pub(super) struct Value {
    text: String,
    pub(super) source: Source,
    written_as: String,
}

/// The layers on the way to a [`super::Config`]; collects problems instead of stopping at the first.
pub(super) struct Layers<'a> {
    read_secret: &'a dyn Fn(&Path) -> io::Result<String>,
    pub(super) values: BTreeMap<&'static str, Value>,
    files: BTreeMap<&'static str, Value>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(read_secret: &'a dyn Fn(&Path) -> io::Result<String>) -> Self {
        Self { read_secret, values: BTreeMap::new(), files: BTreeMap::new(), problems: Vec::new() }
    }

    /// Sets `name`, known or `…_file` of a known one, over whatever an earlier layer said.
    pub(super) fn add(&mut self, name: &str, text: String, source: Source, written_as: &str) {
        let (slot, other, key) = if let Some(key) = find_key(name) {
            (&mut self.values, &mut self.files, key)
        } else if let Some(key) = file_setting(name) {
            (&mut self.files, &mut self.values, key)
        } else {
            self.problems.push(unknown(written_as, name, &source));
            return;
        };
        // A secret and a file for it in the same layer: whichever won would surprise someone.
        let same_layer =
            |value: &&Value| std::mem::discriminant(&value.source) == std::mem::discriminant(&source);
        if let Some(rival) = other.get(key.name).filter(same_layer) {
            self.problems.push(problem(
                written_as,
                format!("is set together with `{}`", rival.written_as),
                "keep one of the two",
            ));
        }
        other.remove(key.name);
        slot.insert(key.name, Value { text, source, written_as: written_as.to_owned() });
    }

    pub(super) fn add_file(&mut self, text: &str) {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                // Its `Display` quotes the line, which may hold a secret; its message does not.
                let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
                let what = format!("is not valid TOML at line {line} ({})", error.message());
                self.problems.push(problem("configuration file", what, "correct that line"));
                return;
            }
        };
        for (section, value) in table {
            match value {
                toml::Value::Table(settings) => {
                    for (name, value) in settings {
                        self.add_file_value(&format!("{section}.{name}"), value);
                    }
                }
                value => self.add_file_value(&section, value),
            }
        }
    }

    fn add_file_value(&mut self, name: &str, value: toml::Value) {
        match file_text(value) {
            Some(text) => self.add(name, text, Source::File, name),
            None if find_key(name).is_none() => self.problems.push(unknown(name, name, &Source::File)),
            None => self.problems.push(problem(
                name,
                "is neither text, a whole number, true or false, nor a list of texts without commas",
                "write one of these",
            )),
        }
    }

    pub(super) fn add_environment(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        for (written_as, text) in env {
            let Some(rest) = written_as.strip_prefix("REMIT_") else { continue };
            if OTHER_VARIABLES.contains(&written_as.as_str()) {
                continue;
            }
            let name = rest.to_ascii_lowercase().replace("__", ".");
            let known = find_key(&name).is_some() || file_setting(&name).is_some();
            // Without `__` it may belong to someone else (Kubernetes sets REMIT_PORT for a service
            // called remit), unless it is all but one of ours, such as REMIT_DATABASE_URL.
            let near = || nearest(&written_as, KEYS.iter().map(|key| variable(key.name))).1 <= 2;
            if known || rest.contains("__") || near() {
                self.add(&name, text, Source::Environment(written_as.clone()), &written_as);
            }
        }
    }

    /// Puts what the `…_file` settings name in the place of the settings themselves.
    pub(super) fn resolve_files(&mut self) {
        for (name, file) in std::mem::take(&mut self.files) {
            match (self.read_secret)(Path::new(&file.text)) {
                Ok(text) => {
                    let text = text.strip_suffix('\n').unwrap_or(&text);
                    let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
                    self.values.insert(name, Value { text, ..file });
                }
                Err(error) => self.problems.push(problem(
                    file.written_as,
                    format!("names a file that cannot be read ({error})"),
                    "correct the path or the permissions of the file",
                )),
            }
        }
    }

    pub(super) fn text(&self, name: &'static str) -> Option<&str> {
        let default = || find_key(name).and_then(|key| key.default);
        self.values.get(name).map(|value| value.text.as_str()).or_else(default)
    }

    /// Notes a problem with `name` under the name its source gave it.
    pub(super) fn reject(&mut self, name: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        let written_as = self.values.get(name).map_or(name, |value| &value.written_as).to_owned();
        self.problems.push(problem(written_as, what, remedy));
    }

    /// Parses a setting that is not secret. A value that will not do is noted and replaced by
    /// `T::default()`, which never gets out because the problem refuses the whole configuration.
    pub(super) fn parse<T: FromStr + Default>(
        &mut self,
        name: &'static str,
        wanted: &str,
        accept: impl Fn(&T) -> bool,
    ) -> T {
        let text = self.text(name).unwrap_or_default();
        if let Some(value) = text.parse().ok().filter(accept) {
            return value;
        }
        let what = format!("is `{text}`, not {wanted}");
        self.reject(name, what, format!("set it to {wanted}"));
        T::default()
    }

    pub(super) fn switch(&mut self, name: &'static str) -> bool {
        self.parse(name, "`true` or `false`", |_| true)
    }

    pub(super) fn number<T>(&mut self, name: &'static str, bounds: RangeInclusive<T>) -> T
    where
        T: FromStr + Default + PartialOrd + fmt::Display,
    {
        let wanted = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.parse(name, &wanted, move |value| bounds.contains(value))
    }

    pub(super) fn seconds(&mut self, name: &'static str, most: u64) -> Duration {
        Duration::from_secs(self.number(name, 1..=most))
    }

    pub(super) fn address(&mut self, name: &'static str) -> SocketAddr {
        let text = self.text(name).unwrap_or_default();
        if let Ok(address) = text.parse() {
            return address;
        }
        let what = format!("is `{text}`, not an IP address and port");
        self.reject(name, what, "set it to an address such as `0.0.0.0:8080` or `[::]:8080`");
        SocketAddr::from(([0, 0, 0, 0], 0))
    }

    pub(super) fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let text = self.text(name)?.to_owned();
        if text.is_empty() {
            self.reject(name, "is empty", "set it to a path, or unset it");
        }
        Some(PathBuf::from(text))
    }

    pub(super) fn list(&self, name: &'static str) -> Vec<String> {
        self.text(name)
            .map(|text| text.split(',').map(|item| item.trim().to_owned()).collect())
            .unwrap_or_default()
    }
}

/// A value of the file as the environment would write it.
fn file_text(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items
                .into_iter()
                .map(|item| match item {
                    toml::Value::String(text) if !text.contains(',') => Some(text),
                    _ => None,
                })
                .collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
