//! Configuration: which layer wins, what refuses to start, and that no secret is ever shown.

use std::{collections::HashMap, io, path::Path, time::Duration};

use remit::config::{Config, ConfigError, KEYS, LogFormat, Network, Role, Security, Source};
use secrecy::{ExposeSecret, SecretString};

const MASTER_KEY_HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const MASTER_KEY_BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Loads from a file's text, variables, and the secret files that exist.
fn load_with(file: &str, env: &[(&str, &str)], secrets: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let secrets: HashMap<&Path, &str> =
        secrets.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
    Config::load(Some(file), env, [], |path| {
        secrets.get(path).map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    })
}

fn load(file: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load_with(file, env, &[])
}

/// The whole message when exactly one thing is wrong.
#[track_caller]
fn refusal(file: &str, env: &[(&str, &str)]) -> String {
    let error = load(file, env).expect_err("the configuration should be refused");
    assert_eq!(error.problems.len(), 1, "{error}");
    error.to_string()
}

#[test]
fn nothing_configured_gives_the_documented_defaults() {
    let config = Config::load(None, [], [], |_| Err(io::ErrorKind::NotFound.into())).unwrap();
    assert!(!config.livemode);
    assert_eq!(config.database.url.expose_secret(), "sqlite://remit.db");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.ops_listen.to_string(), "127.0.0.1:9090");
    assert_eq!(config.server.max_body_bytes, 1_048_576);
    assert!(Role::ALL.iter().all(|(_, role)| config.has_role(*role)));
    assert_eq!((config.stripe.tolerance_s, config.paddle.tolerance_s), (300, 30));
    assert!(config.stripe.webhook_secrets.is_empty() && config.paddle.webhook_secrets.is_empty());
    assert!(config.stripe.secret_key.is_none() && config.master_key.is_none());
    assert_eq!(config.stripe.api_base, "https://api.stripe.com");
    assert_eq!(config.stripe.timeout, Duration::from_secs(30));
    assert_eq!(config.attribution_keys, ["referral_code", "affiliate_code", "via", "ref"]);
    assert!(!config.payouts_live && !config.payments_enabled && !config.programs.multi_level);
    assert_eq!(config.programs.merge_grace_s, 900);
    assert!(config.programs.public_signup);
    assert_eq!(config.server.public_url, "http://127.0.0.1:8080");
    assert!(config.server.trusted_proxies.is_empty());
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let file =
        "[server]\nlisten = \"127.0.0.1:1\"\nops_listen = \"127.0.0.1:1\"\n[paddle]\ntolerance_s = 60\n";
    let env = [("REMIT_SERVER__LISTEN", "127.0.0.1:2"), ("REMIT_SERVER__OPS_LISTEN", "127.0.0.1:2")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let flags = [("server.listen", "127.0.0.1:3".to_owned())];
    let config = Config::load(Some(file), env, flags, |_| Err(io::ErrorKind::NotFound.into())).unwrap();
    assert_eq!(config.server.listen.port(), 3);
    assert_eq!(config.server.ops_listen.port(), 2);
    assert_eq!(config.paddle.tolerance_s, 60);
    assert_eq!(config.stripe.tolerance_s, 300);

    let source = |key| &config.settings().iter().find(|setting| setting.key == key).unwrap().source;
    assert_eq!(*source("server.listen"), Source::Flag);
    assert_eq!(*source("server.ops_listen"), Source::Environment("REMIT_SERVER__OPS_LISTEN".to_owned()));
    assert_eq!(*source("paddle.tolerance_s"), Source::File);
    assert_eq!(*source("stripe.tolerance_s"), Source::Default);
}

#[test]
fn the_file_takes_lists_and_the_environment_takes_commas() {
    let config = load(
        "livemode = true\n[stripe]\nwebhook_secrets = [\"whsec_old\", \"whsec_new\"]\n",
        &[("REMIT_SERVER__ROLES", "receive, process")],
    )
    .unwrap();
    assert!(config.livemode);
    let secrets: Vec<&str> = config.stripe.webhook_secrets.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["whsec_old", "whsec_new"]);
    assert!(config.has_role(Role::Receive) && config.has_role(Role::Process));
    assert!(!config.has_role(Role::Dispatch) && !config.has_role(Role::Schedule));
}

#[test]
fn a_secret_can_come_from_a_file_that_ends_in_a_newline() {
    let config = load_with(
        "[stripe]\nwebhook_secrets_file = \"/run/stripe\"\n",
        &[("REMIT_SECRETS__MASTER_KEY_FILE", "/run/master")],
        &[("/run/stripe", "whsec_a,whsec_b\n"), ("/run/master", &format!("{MASTER_KEY_HEX}\r\n"))],
    )
    .unwrap();
    assert_eq!(config.stripe.webhook_secrets[1].expose_secret(), "whsec_b");
    assert_eq!(config.master_key.unwrap().expose_secret()[31], 0x1f);
}

#[test]
fn a_later_layer_replaces_a_secret_file_of_an_earlier_one() {
    let file = "[stripe]\nwebhook_secrets_file = \"/missing\"\n";
    let config = load(file, &[("REMIT_STRIPE__WEBHOOK_SECRETS", "whsec_env")]).unwrap();
    assert_eq!(config.stripe.webhook_secrets[0].expose_secret(), "whsec_env");
}

#[test]
fn a_secret_and_its_file_in_one_layer_are_refused() {
    let file = "[stripe]\nwebhook_secrets = \"whsec_a\"\nwebhook_secrets_file = \"/run/stripe\"\n";
    let error = load_with(file, &[], &[("/run/stripe", "whsec_b\n")]).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    assert!(error.to_string().contains("is set together with"), "{error}");
}

#[test]
fn a_missing_secret_file_names_its_setting() {
    let message = refusal("", &[("REMIT_PADDLE__WEBHOOK_SECRETS_FILE", "/nowhere")]);
    assert!(
        message.contains("`REMIT_PADDLE__WEBHOOK_SECRETS_FILE` names a file that cannot be read"),
        "{message}"
    );
}

#[test]
fn unknown_settings_name_the_nearest_known_one() {
    for (file, env, key, near) in [
        ("[stripe]\ntolerence_s = 300\n", None, "`stripe.tolerence_s`", "`stripe.tolerance_s`"),
        ("live_mode = true\n", None, "`live_mode`", "`livemode`"),
        ("[programs.tiers]\nx = 1\n", None, "`programs.tiers`", "`payouts.live`"),
        (
            "",
            Some("REMIT_STRIPE__WEBHOOK_SECRET"),
            "`REMIT_STRIPE__WEBHOOK_SECRET`",
            "`REMIT_STRIPE__WEBHOOK_SECRETS`",
        ),
        ("", Some("REMIT_DATABASE_URL"), "`REMIT_DATABASE_URL`", "`REMIT_DATABASE__URL`"),
        ("", Some("REMIT_LIVEMOD"), "`REMIT_LIVEMOD`", "`REMIT_LIVEMODE`"),
        // Only secrets can be read from files.
        ("", Some("REMIT_SERVER__LISTEN_FILE"), "`REMIT_SERVER__LISTEN_FILE`", "`REMIT_SERVER__LISTEN`"),
    ] {
        let env: Vec<(&str, &str)> = env.map(|name| (name, "1")).into_iter().collect();
        let message = refusal(file, &env);
        assert!(message.contains(key) && message.contains("is not a setting"), "{message}");
        if near != "`payouts.live`" {
            assert!(message.contains(near), "{message}");
        }
    }
}

#[test]
fn variables_that_are_no_settings_are_passed_over() {
    let others = [
        ("REMIT_TEST_DATABASE_URL", "postgres://x"),
        ("REMIT_CONFORMANCE_DIR", "/x"),
        ("REMIT_CONFIG", "/x"),
        // Set by Kubernetes in every pod beside a service called `remit`.
        ("REMIT_PORT", "tcp://10.0.0.1:80"),
        ("REMIT_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    assert!(load("", &others).is_ok());
}

#[test]
fn every_problem_is_reported_at_once() {
    let error =
        load("nonsense = 1\n", &[("REMIT_LIVEMODE", "yes"), ("REMIT_LOG__FORMAT", "xml")]).unwrap_err();
    let keys: Vec<&str> = error.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["nonsense", "REMIT_LIVEMODE", "REMIT_LOG__FORMAT"]);
}

#[test]
fn values_out_of_bounds_are_refused_with_the_bounds() {
    for (name, value, wanted) in [
        ("REMIT_STRIPE__TOLERANCE_S", "0", "a whole number from 1 to 86400"),
        ("REMIT_STRIPE__TOLERANCE_S", "-300", "a whole number from 1 to 86400"),
        ("REMIT_PADDLE__TOLERANCE_S", "5.5", "a whole number from 1 to 86400"),
        ("REMIT_DATABASE__MAX_CONNECTIONS", "1", "a whole number from 2 to 10000"),
        ("REMIT_SERVER__MAX_BODY_BYTES", "99999999999999999999", "a whole number from 1024 to 16777216"),
        ("REMIT_PAYOUTS__LIVE", "1", "`true` or `false`"),
        ("REMIT_SERVER__LISTEN", "localhost", "an IP address and port"),
        ("REMIT_SERVER__ROLES", "receive,pay", "receive, process, dispatch, schedule"),
        ("REMIT_SERVER__ROLES", "", "receive, process, dispatch, schedule"),
        ("REMIT_DATABASE__URL", "mysql://host/db", "sqlite://remit.db"),
        ("REMIT_LOG__FORMAT", "xml", "`text` or `json`"),
    ] {
        let message = refusal("", &[(name, value)]);
        assert!(message.contains(name) && message.contains(wanted), "{name}={value}: {message}");
    }
}

#[test]
fn odd_webhook_secrets_are_refused_without_being_shown() {
    for (name, value, what) in [
        ("REMIT_STRIPE__WEBHOOK_SECRETS", "", "empty secret"),
        ("REMIT_STRIPE__WEBHOOK_SECRETS", "whsec_hunter2,", "empty secret"),
        ("REMIT_STRIPE__WEBHOOK_SECRETS", "whsec_hunter2, whsec_b", "a blank"),
        ("REMIT_STRIPE__WEBHOOK_SECRETS", "whsec_hun ter2", "a blank"),
        ("REMIT_STRIPE__WEBHOOK_SECRETS", "sk_test_hunter2", "does not start with `whsec_`"),
        ("REMIT_PADDLE__WEBHOOK_SECRETS", "pdl_hunter2\tx", "a blank"),
        ("REMIT_STRIPE__SECRET_KEY", "pk_test_hunter2", "does not start with `sk_live_`"),
        ("REMIT_STRIPE__SECRET_KEY", "sk_test_hun ter2", "a blank"),
        ("REMIT_STRIPE__SECRET_KEY", "sk_live_hunter2", "is a live key while livemode is false"),
        ("REMIT_STRIPE__SECRET_KEY", "rk_live_hunter2", "is a live key while livemode is false"),
        ("REMIT_SECRETS__MASTER_KEY", "hunter2", "is not 32 bytes"),
        ("REMIT_SECRETS__MASTER_KEY", &MASTER_KEY_HEX[2..], "is not 32 bytes"),
    ] {
        let message = refusal("", &[(name, value)]);
        assert!(message.contains(name) && message.contains(what), "{message}");
        assert!(!message.contains("hun"), "{message}");
    }
    let message = refusal("", &[("REMIT_LIVEMODE", "true"), ("REMIT_STRIPE__SECRET_KEY", "sk_test_hunter2")]);
    assert!(message.contains("is a test key while livemode is true"), "{message}");
}

#[test]
fn a_trailing_newline_does_not_spoil_a_secret() {
    let env = [("REMIT_STRIPE__WEBHOOK_SECRETS", "whsec_a\n"), ("REMIT_STRIPE__SECRET_KEY", "sk_test_a\n")];
    let config = load("", &env).unwrap();
    assert_eq!(config.stripe.webhook_secrets[0].expose_secret(), "whsec_a");
    assert_eq!(config.stripe.secret_key.unwrap().expose_secret(), "sk_test_a");
}

#[test]
fn the_master_key_may_be_hexadecimal_or_base64() {
    let bytes = |text| {
        let config = load("", &[("REMIT_SECRETS__MASTER_KEY", text)]).unwrap();
        *config.master_key.unwrap().expose_secret()
    };
    assert_eq!(bytes(MASTER_KEY_HEX), bytes(MASTER_KEY_BASE64));
}

#[test]
fn another_api_base_is_accepted_on_this_machine_only() {
    for base in
        ["http://127.0.0.1:12111", "http://localhost:12111/", "http://[::1]:12111", "https://api.stripe.com/"]
    {
        let config = load("", &[("REMIT_STRIPE__API_BASE", base)]).unwrap();
        assert_eq!(config.stripe.api_base, base.trim_end_matches('/'));
    }
    for base in
        ["https://api.stripe.com.evil.example", "http://10.0.0.1:12111", "http://127.0.0.1.evil.example"]
    {
        let message = refusal("", &[("REMIT_STRIPE__API_BASE", base)]);
        assert!(message.contains("REMIT_STRIPE__API_BASE_FORCE=true"), "{message}");
        let forced = [("REMIT_STRIPE__API_BASE", base), ("REMIT_STRIPE__API_BASE_FORCE", "true")];
        assert_eq!(load("", &forced).unwrap().stripe.api_base, base);
    }
    for base in ["api.stripe.com", "ftp://127.0.0.1", "http://127.0.0.1/v1", "http://a:b@127.0.0.1"] {
        let message = refusal("", &[("REMIT_STRIPE__API_BASE", base)]);
        assert!(message.contains("not a plain http or https address"), "{message}");
    }
}

#[test]
fn a_broken_file_is_named_by_line_and_not_quoted() {
    let message = refusal("livemode = false\n[stripe]\nsecret_key = \"sk_test_hunter2\n", &[]);
    assert!(message.contains("line 3"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn a_float_in_the_file_is_refused() {
    let message = refusal("[stripe]\ntolerance_s = 300.0\n", &[]);
    assert!(message.contains("`stripe.tolerance_s`"), "{message}");
}

#[test]
fn neither_debug_nor_the_settings_show_a_secret() {
    let config = load(
        "",
        &[
            ("REMIT_DATABASE__URL", "postgres://remit:hunter2@db.internal/remit?password=hunter2"),
            ("REMIT_STRIPE__WEBHOOK_SECRETS", "whsec_hunter2"),
            ("REMIT_PADDLE__WEBHOOK_SECRETS", "pdl_ntfset_hunter2"),
            ("REMIT_STRIPE__SECRET_KEY", "sk_test_hunter2"),
            ("REMIT_SECRETS__MASTER_KEY", MASTER_KEY_HEX),
            ("REMIT_MAIL__URL", "smtps://remit:hunter2@mail.example.com"),
            ("REMIT_MAIL__FROM", "partners@example.com"),
        ],
    )
    .unwrap();
    let debug = format!("{config:?}");
    assert!(!debug.contains("hunter2") && !debug.contains("30, 31"), "{debug}");

    let shown = |key| config.settings().iter().find(|setting| setting.key == key).unwrap().value.clone();
    assert_eq!(shown("database.url").as_deref(), Some("postgres://remit:***@db.internal/remit"));
    assert_eq!(shown("stripe.secret_key").as_deref(), Some("(set)"));
    assert_eq!(shown("mail.url").as_deref(), Some("smtps://remit:***@mail.example.com"));
    assert_eq!(shown("stripe.api_base").as_deref(), Some("https://api.stripe.com"));
    assert_eq!(config.settings().len(), KEYS.len());
    let text = format!("{:?}", config.settings());
    assert!(!text.contains("hunter2") && !text.contains(MASTER_KEY_HEX), "{text}");
}

#[test]
fn the_file_named_by_a_flag_is_read_and_has_to_exist() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("named.toml");
    let error = Config::from_process(Some(&path), []).unwrap_err().to_string();
    assert!(error.contains("`--config` names") && error.contains("named.toml"), "{error}");

    std::fs::write(&path, "[attribution]\nkeys = [\"from_the_file\"]\n").unwrap();
    let config = Config::from_process(Some(&path), []).unwrap();
    assert_eq!(config.attribution_keys, ["from_the_file"]);
}

#[test]
fn a_range_of_addresses_holds_what_shares_its_leading_bits() {
    for (network, address, expected) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("192.0.2.7", "192.0.2.7", true),
        ("192.0.2.7", "192.0.2.6", false),
        ("192.0.2.7/31", "192.0.2.6", true),
        ("0.0.0.0/0", "203.0.113.1", true),
        ("0.0.0.0/0", "::1", false),
        ("2001:db8::/32", "2001:db8:ffff::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("::/0", "2001:db9::1", true),
    ] {
        let network = Network::parse(network).unwrap();
        assert_eq!(network.contains(address.parse().unwrap()), expected, "{network:?} {address}");
    }
    for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "proxy.example.com"] {
        assert_eq!(Network::parse(text), None, "{text}");
    }
}

#[test]
fn a_public_address_is_one_that_strangers_can_use() {
    for (text, expected) in [
        ("https://pay.example.com", "https://pay.example.com"),
        ("https://pay.example.com/", "https://pay.example.com"),
        ("http://pay.example.com:8443/affiliates/", "http://pay.example.com:8443/affiliates"),
    ] {
        let config = load("", &[("REMIT_SERVER__PUBLIC_URL", text)]).unwrap();
        assert_eq!(config.server.public_url, expected);
    }
    for text in
        ["", "pay.example.com", "ftp://pay.example.com", "https://a:b@pay.example.com", "https://x.org?a=1"]
    {
        let message = refusal("", &[("REMIT_SERVER__PUBLIC_URL", text)]);
        assert!(message.contains("is not a plain http or https address"), "{message}");
    }
    let message = refusal("", &[("REMIT_SERVER__TRUSTED_PROXIES", "10.0.0.0/8, proxy")]);
    assert!(message.contains("names `proxy`"), "{message}");
    let config = load("", &[("REMIT_SERVER__TRUSTED_PROXIES", "10.0.0.0/8, ::1")]).unwrap();
    assert_eq!(config.server.trusted_proxies.len(), 2);
}

/// What mail needs beside the server's address.
const MAIL: [(&str, &str); 2] =
    [("REMIT_MAIL__FROM", "Partners <partners@example.com>"), ("REMIT_SECRETS__MASTER_KEY", MASTER_KEY_HEX)];

#[test]
fn the_address_of_the_mail_server_says_how_it_is_reached_and_who_logs_in() {
    for (url, host, port, security, login) in [
        ("smtps://mail.example.com", "mail.example.com", 465, Security::Implicit, None),
        ("smtp://mail.example.com/", "mail.example.com", 587, Security::StartTls, None),
        ("smtp://mail.example.com:2525?tls=none", "mail.example.com", 2525, Security::None, None),
        ("smtp://localhost", "localhost", 25, Security::None, None),
        ("smtp://[::1]:1025", "::1", 1025, Security::None, None),
        (
            "smtps://a%40b:x%3Ay@mail.example.com\n",
            "mail.example.com",
            465,
            Security::Implicit,
            Some(("a@b", "x:y")),
        ),
        ("smtp://a:b@127.0.0.1", "127.0.0.1", 25, Security::None, Some(("a", "b"))),
    ] {
        let config = load("", &[&[("REMIT_MAIL__URL", url)][..], &MAIL].concat()).unwrap();
        let mail = config.mail.unwrap();
        assert_eq!((&*mail.host, mail.port, mail.security), (host, port, security), "{url}");
        let found = mail.login.as_ref().map(|(user, password)| (&**user, password.expose_secret()));
        assert_eq!(found, login, "{url}");
        assert_eq!(mail.from.to_string(), "Partners <partners@example.com>");
        assert_eq!((mail.timeout, mail.ca_file, mail.invite_url), (Duration::from_secs(30), None, None));
    }
    assert!(load("", &MAIL).unwrap().mail.is_none(), "nothing is sent without a server");
}

#[test]
fn a_mail_setting_that_will_not_do_says_why_and_what_to_do_and_shows_no_password() {
    const SERVER: &str = "set it to one such as `smtps://user:password@mail.example.com`";
    const TEMPLATE: &str =
        "set it to one such as `https://partners.example.com/join#token={token}`, or unset it";
    let server = ("REMIT_MAIL__URL", "smtps://remit:hunter2@mail.example.com");
    for (name, value, what, remedy) in [
        (
            server.0,
            "https://hunter2@x.org",
            "is not an address that begins with `smtp://` or `smtps://`",
            SERVER,
        ),
        (server.0, "mail.example.com", "is not an address that begins with `smtp://` or `smtps://`", SERVER),
        (server.0, "smtp:hunter2", "names no mail server", SERVER),
        (server.0, "smtps://x.org/hunter2", "goes on after the server's name and port", SERVER),
        (server.0, "smtps://x.org#hunter2", "goes on after the server's name and port", SERVER),
        (
            server.0,
            "smtp://x.org?tls=hunter2",
            "ends with a parameter that is not `tls=none`, or has it and begins with `smtps://`",
            "remove the parameter",
        ),
        (
            server.0,
            "smtps://x.org?tls=none",
            "ends with a parameter that is not `tls=none`, or has it and begins with `smtps://`",
            "remove the parameter",
        ),
        (server.0, "smtps://:hunter2@x.org", "has a user without a password, or the reverse", SERVER),
        (server.0, "smtps://hunter2@x.org", "has a user without a password, or the reverse", SERVER),
        (server.0, "smtps://a:hunter2%ff@x.org", "has a user or password that is not UTF-8 text", SERVER),
        (
            server.0,
            "smtp://a:hunter2@x.org?tls=none",
            "would send its password to another machine without encryption",
            "remove `tls=none`, or the user and password",
        ),
        (
            "REMIT_MAIL__FROM",
            "partners",
            "is `partners`, not an e-mail address",
            "set it to the sender, such as `Partners <partners@example.com>`",
        ),
        (
            "REMIT_MAIL__TIMEOUT_S",
            "0",
            "is `0`, not a whole number from 1 to 300",
            "set it to a whole number",
        ),
        ("REMIT_MAIL__CA_FILE", "", "is empty", "set it to a path, or unset it"),
    ] {
        let message = refusal("", &[&[server][..], &MAIL, &[(name, value)]].concat());
        assert!(message.contains(&format!("`{name}` {what}; {remedy}")), "{value}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    for value in [
        "https://partners.example.com/join",
        "https://{token}.example.com/",
        "https://{token}@example.com/",
        "https://partners.example.com/jo in?token={token}",
        "http://partners.example.com/?token={token}",
        "partners.example.com/{token}",
        "mailto:{token}",
    ] {
        let message = refusal("", &[&[server][..], &MAIL, &[("REMIT_MAIL__INVITE_URL", value)]].concat());
        let what = "is not an https address with `{token}` in its path, query or fragment";
        assert!(
            message.contains(&format!("`REMIT_MAIL__INVITE_URL` {what}; {TEMPLATE}")),
            "{value}: {message}"
        );
    }
    // What is missing is told together.
    let error = load("", &[server]).unwrap_err().to_string();
    assert!(error.contains("`mail.from` is not set, and `mail.url` is; set it to the sender"), "{error}");
    assert!(error.contains("`secrets.master_key` is not set, and `mail.url` is: it seals"), "{error}");
}

#[test]
fn mails_that_name_an_address_of_this_machine_are_noticed() {
    let server = ("REMIT_MAIL__URL", "smtp://localhost");
    let page = ("REMIT_MAIL__INVITE_URL", "https://partners.example.com/join#{token}");
    let at = |url| ("REMIT_SERVER__PUBLIC_URL", url);
    for (further, expected) in [
        (&[server][..], true),
        (&[server, ("REMIT_SERVER__LISTEN", "0.0.0.0:8080")], true),
        (&[server, at("http://localhost:8080")], true),
        (&[server, at("http://[::]:8080")], true),
        (&[server, at("https://pay.example.com")], false),
        (&[server, page], false),
        (&[], false),
    ] {
        let config = load("", &[further, &MAIL].concat()).unwrap();
        assert_eq!(config.mails_lead_nowhere(), expected, "{further:?}");
    }
}

#[test]
fn an_invitation_is_opened_where_the_operator_says() {
    let token = SecretString::from("inv_abc");
    for (template, link) in [
        ("https://x.org/join#token={token}", "https://x.org/join#token=inv_abc"),
        ("https://x.org/{token}/?again={token}", "https://x.org/inv_abc/?again=inv_abc"),
        ("http://localhost:3000/?t={token}", "http://localhost:3000/?t=inv_abc"),
    ] {
        let server = ("REMIT_MAIL__URL", "smtp://localhost");
        let further = [("REMIT_MAIL__INVITE_URL", template), ("REMIT_MAIL__CA_FILE", "/etc/ca.pem")];
        let mail = load("", &[&[server][..], &MAIL, &further].concat()).unwrap().mail.unwrap();
        assert_eq!(mail.invite_url.unwrap().with(&token).expose_secret(), link);
        assert_eq!(mail.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
    }
}
