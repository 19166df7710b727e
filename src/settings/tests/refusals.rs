use super::*;

/// A configuration, what its one error begins with (file and key), and words of what was wrong and what would be right.
type Case<'a> = (&'a str, &'a str, &'a [&'a str]);

const GRANT: &str = "[[grants]]\noperators = [\"*\"]\ntargets = [\"ins-*\"]\n";
const GSE: &str = "[gse]\nregion = \"ap-shanghai\"\n";

/// Each text stands beside a good `[gse]` and a good grant.
fn each_is_refused(cases: &[Case<'_>]) {
    for (text, begins, words) in cases {
        let whole = match text.strip_prefix("[gse]\n") {
            Some(gse) => format!("{GSE}{gse}\n{GRANT}"),
            None => format!("{text}\n{GSE}{GRANT}"),
        };
        let findings = read(&whole, &[]).err().unwrap_or_else(|| panic!("accepted: {text}"));
        let errors = lines(&findings.errors);
        assert_eq!(errors.len(), 1, "{text}: {errors:#?}");
        assert!(errors[0].starts_with(&format!("broker.toml: {begins}: ")), "{text}: {}", errors[0]);
        for word in *words {
            assert!(errors[0].contains(word), "{text}: {word:?} not in {}", errors[0]);
        }
    }
}

#[test]
fn unknown_keys_with_the_nearest_known_one() {
    each_is_refused(&[
        ("[gse]\nendpont = \"x\"", "gse.endpont", &["unknown key", "did you mean gse.endpoint?"]),
        ("[listen]\nadresses = []", "listen.adresses", &["did you mean listen.addresses?"]),
        ("[listen]\nregion = \"x\"", "listen.region", &["did you mean gse.region?"]),
        ("[gsee]\nregion = \"x\"", "gsee", &["did you mean gse?"]),
        ("[cache]\nfrobnicate = 1", "cache.frobnicate", &["unknown key", "capacity, lease_ttl, not_found_ttl, resolve_ttl"]),
        ("state-dir = \"/x\"", "state-dir", &["did you mean state_dir?"]),
        ("[[grants]]\noperators = [\"*\"]\ntargets = [\"ins-*\"]\nalow = []", "grants[0].alow", &["did you mean grants[0].allow?"]),
    ]);
}

#[test]
fn wrong_types() {
    each_is_refused(&[
        ("listen = 3", "listen", &["is a number", "[listen]"]),
        ("[listen]\naddresses = \"[::]:22\"", "listen.addresses", &["is a string", "write a list"]),
        ("[listen]\naddresses = [22]", "listen.addresses[0]", &["is a number", "[::]:2222"]),
        ("[listen]\nlogin_grace = 20", "listen.login_grace", &["is a number", "\"20s\""]),
        ("[gse]\nssh_port = \"22\"", "gse.ssh_port", &["is a string", "from 1 to 65535, without quotes"]),
        ("[gse]\nrequests_per_second = 1.5", "gse.requests_per_second", &["is a fraction", "whole number"]),
        ("[gse]\nfleet_aliases = [\"x\"]", "gse.fleet_aliases", &["is a list", "{ prod ="]),
        ("[gse]\nssh_ports = { fleet-a = true }", "gse.ssh_ports.fleet-a", &["is a boolean", "65535"]),
        ("[limits]\npipe = 4194304", "limits.pipe", &["is a number", "\"4MiB\""]),
        ("state_dir = [\"/x\"]", "state_dir", &["is a list", "absolute path"]),
        ("[operators]\ngroups = \"oncall\"", "operators.groups", &["is a string", "a table"]),
    ]);
    let findings = read(&format!("grants = \"x\"\n{GSE}"), &[]).unwrap_err();
    assert_eq!(lines(&findings.errors), ["broker.toml: grants: is a string: write [[grants]] tables in the file"]);
    let findings = read(&format!("{GSE}[grants]\noperators = [\"*\"]"), &[]).unwrap_err();
    assert_eq!(lines(&findings.errors), ["broker.toml: grants: is a table: write [[grants]] tables in the file"]);
}

#[test]
fn numbers_durations_and_sizes_out_of_range() {
    each_is_refused(&[
        ("[limits]\nconnections = 0", "limits.connections", &["0 is out of range", "from 1 to 1000000"]),
        ("[limits]\nsessions_per_operator = -1", "limits.sessions_per_operator", &["-1", "from 1"]),
        ("[limits]\nattempts = 1000", "limits.attempts", &["from 1 to 100"]),
        ("[gse]\nrequests_per_second = 0", "gse.requests_per_second", &["0 is out of range", "from 1"]),
        ("[gse]\nqueue = 0", "gse.queue", &["from 1"]),
        ("[gse]\nssh_port = 65536", "gse.ssh_port", &["from 1 to 65535"]),
        ("[gse]\nssh_ports = { fleet-a = 0 }", "gse.ssh_ports.fleet-a", &["from 1 to 65535"]),
        ("[cache]\ncapacity = 0", "cache.capacity", &["from 1"]),
        ("[audit]\nqueue = 0", "audit.queue", &["from 1"]),
        ("[listen]\nlogin_grace = \"0s\"", "listen.login_grace", &["out of range", "from 1ms to 10m"]),
        ("[cache]\nlease_ttl = \"20days\"", "cache.lease_ttl", &["out of range", "to 1day"]),
        ("[cache]\nlease_ttl = \"60\"", "cache.lease_ttl", &["\"60\" is not a duration", "\"20s\""]),
        ("[upstream]\nconnect_timeout = \"fast\"", "upstream.connect_timeout", &["\"fast\" is not a duration"]),
        ("[limits]\npipe = \"4MB\"", "limits.pipe", &["\"4MB\" is not a size", "KiB, MiB"]),
        ("[limits]\npipe = \"1B\"", "limits.pipe", &["out of range", "from 64KiB to 64MiB"]),
        ("[limits]\npipe = \"99999999999999999999GiB\"", "limits.pipe", &["not a size"]),
        ("[limits]\npipe = \"18446744073709551615GiB\"", "limits.pipe", &["out of range"]),
    ]);
}

#[test]
fn what_the_broker_would_listen_on_or_connect_to() {
    each_is_refused(&[
        ("[listen]\naddresses = [\"[::]:1\", \"2222\"]", "listen.addresses[1]", &["\"2222\"", "\"[::]:2222\""]),
        ("[listen]\naddresses = [\"1.2.3.4:70000\"]", "listen.addresses[0]", &["not an address with a port"]),
        ("[listen]\naddresses = [\"[::]:1\", \"[::]:1\"]", "listen.addresses[1]", &["twice"]),
        ("[listen]\naddresses = []", "listen.addresses", &["is empty"]),
        (
            "[gse]\nendpoint = \"http://gse.tencentcloudapi.com\"",
            "gse.endpoint",
            &["\"http://gse.tencentcloudapi.com\" is plain http to a host that is not loopback: use https, or a loopback address"],
        ),
        ("[gse]\nendpoint = \"http://localhost:1\"", "gse.endpoint", &["not loopback"]),
        ("[gse]\nendpoint = \"http://127.0.0.1.example.com\"", "gse.endpoint", &["not loopback"]),
        ("[gse]\nendpoint = \"https://h/path\"", "gse.endpoint", &["a path", "https://host:port"]),
        ("[gse]\nendpoint = \"https://h/?q\"", "gse.endpoint", &["a query"]),
        ("[gse]\nendpoint = \"https://h#f\"", "gse.endpoint", &["a fragment"]),
        ("[gse]\nendpoint = \"https://h:0\"", "gse.endpoint", &["port 0"]),
        ("[gse]\nendpoint = \"ftp://h\"", "gse.endpoint", &["neither https nor http"]),
        ("[gse]\nendpoint = \"gse.tencentcloudapi.com\"", "gse.endpoint", &["not a URL", "https://host"]),
        ("[gse]\nssh_ports = { prod = 22 }", "gse.ssh_ports.prod", &["not a fleet id", "fleet-qp3g3caa-iectl8nb"]),
        ("[gse]\nfleets = [\"fleet-a\", \"x\"]", "gse.fleets[1]", &["\"x\" is not a fleet id"]),
        ("[gse]\nfleet_aliases = { fleet-x = \"fleet-a\" }", "gse.fleet_aliases.fleet-x", &["not a fleet alias"]),
        ("[gse]\nfleet_aliases = { prod = \"ins-a\" }", "gse.fleet_aliases.prod", &["\"ins-a\" is not a fleet id"]),
        ("[upstream]\nallowed_networks = [\"10.0.0.0/33\"]", "upstream.allowed_networks[0]", &["not a network", "10.0.0.0/8"]),
        ("[upstream]\nallowed_networks = [\"10.1.0.0/8\"]", "upstream.allowed_networks[0]", &["write \"10.0.0.0/8\""]),
        ("[upstream]\nhost_keys = \"no\"", "upstream.host_keys", &["\"no\"", "\"accept-new\" or \"strict\""]),
        ("[upstream]\nlegacy_algorithms = \"yes\"", "upstream.legacy_algorithms", &["\"auto\" or \"never\" or \"always\""]),
        ("[audit]\npath = \"audit.log\"", "audit.path", &["must begin with /", "\"stdout\""]),
        ("state_dir = \"state\"", "state_dir", &["\"state\" is not an absolute path"]),
    ]);
    assert_eq!(read(&format!("{GSE}endpoint = \"http://[::1]:8080/\""), &[]).unwrap().0.gse.endpoint, "http://[::1]:8080");
}

#[test]
fn who_and_what_grants_are_for() {
    let grant = |operators: &str, targets: &str, more: &str| {
        format!("[operators]\ngroups = {{ oncall = [\"bob\"] }}\n[[grants]]\noperators = {operators}\ntargets = {targets}\n{more}")
    };
    let any = "[\"*\"]";
    let cases = [
        (grant("[\"alice\", \"@oncal\"]", "[\"ins-*\"]", ""), "grants[0].operators[1]", ["\"@oncal\"", "did you mean \"@oncall\"?"]),
        (grant("[\"@admins\"]", "[\"ins-*\"]", ""), "grants[0].operators[0]", ["operators.groups", "@oncall"]),
        (grant("[\"al ice\"]", "[\"ins-*\"]", ""), "grants[0].operators[0]", ["\"al ice\" is not an operator name", "letters"]),
        (grant("[]", "[\"ins-*\"]", ""), "grants[0].operators", ["is empty", "@group"]),
        (grant(any, "[\"ins-*\", \"INS-*\"]", ""), "grants[0].targets[1]", ["\"INS-*\" is not a glob", "fleet-qp3g3caa-*/ins-*"]),
        (grant(any, "[\"a/b/c\"]", ""), "grants[0].targets[0]", ["not a glob", "ins-*"]),
        (grant(any, "[\"fleet-a\"]", ""), "grants[0].targets[0]", ["matches no instance", "\"fleet-a/*\""]),
        (grant(any, "[\"prod/ins-*\"]", ""), "grants[0].targets[0]", ["matches no fleet", "not aliases"]),
        (grant(any, "[\"gi2lxw\"]", ""), "grants[0].targets[0]", ["matches no instance", "ins-*"]),
        (grant(any, "[\"ins-*\"]", "allow = [\"shell\", \"sfpt\"]"), "grants[0].allow[1]", ["\"sfpt\"", "forward-local"]),
        (grant(any, "[\"ins-*\"]", "allow = []"), "grants[0].allow", ["is empty", "leave the key out"]),
    ];
    for (text, begins, words) in &cases {
        each_is_refused(&[(text, begins, words)]);
    }
    each_is_refused(&[
        ("[[grants]]\ntargets = [\"ins-*\"]", "grants[0].operators", &["is missing", "@group"]),
        ("[[grants]]\noperators = [\"*\"]", "grants[0].targets", &["is missing", "ins-*"]),
        ("[operators]\ngroups = { a = [\"x\", \"-y\"] }", "operators.groups.a[1]", &["\"-y\" is not an operator name"]),
        ("[operators]\ngroups = { \"@a\" = [\"x\"] }", "operators.groups.@a", &["not a group name", "without the @"]),
    ]);
    for good in ["*", "ins-*", "i*", "ins-a?c", "fleet-a/*", "*/ins-a", "f*/?ns-a", "fleet-*/*"] {
        assert!(read(&format!("{GSE}[[grants]]\noperators = [\"*\"]\ntargets = [\"{good}\"]"), &[]).is_ok(), "{good}");
    }
}

#[test]
fn what_a_grant_can_hold() {
    let grant = |more: &str| format!("[[grants]]\noperators = [\"*\"]\ntargets = [\"ins-*\"]\n{more}");
    for (more, key, words) in [
        ("ports = 3389", "ports", ["is a number", "write a list"]),
        ("ports = []", "ports", ["is empty", "leave the key out"]),
        ("ports = [3389, 70000]", "ports[1]", ["\"70000\" is not a port", "8000-8100"]),
        ("ports = [-1]", "ports[0]", ["\"-1\" is not a port", "8000-8100"]),
        ("ports = [\"9-8\"]", "ports[0]", ["\"9-8\"", "8000-8100"]),
        ("ports = [true]", "ports[0]", ["is a boolean", "3389"]),
        ("ports = [\"1-1024\"]", "ports", ["port 22", "leave it out"]),
        ("hours = \"mon-fri 8-20\"", "hours", ["three words", "Asia/Shanghai"]),
        ("hours = [\"mon 08:00-20:00 UTC\", \"tue 08:00-20:00 Shanghai\"]", "hours[1]", ["\"Shanghai\" is no time zone", "IANA"]),
        ("hours = []", "hours", ["is empty", "leave the key out"]),
        ("hours = 8", "hours", ["is a number", "mon-fri"]),
        ("from = [\"10.0.0.1/8\"]", "from[0]", ["bits set beyond", "10.0.0.1/8"]),
        ("from = [\"bastion.example.com\"]", "from[0]", ["is not a network", "10.0.0.0/8"]),
        ("max_session = \"0s\"", "max_session", ["out of range", "30days"]),
        ("max_session = 8", "max_session", ["is a number", "\"8h\""]),
        ("record = \"yes\"", "record", ["\"yes\"", "\"required\", \"best-effort\" or \"off\""]),
        ("record = true", "record", ["is a boolean", "best-effort"]),
        ("record = \"required\"\nrecord_input = \"yes\"", "record_input", ["is a string", "true or false"]),
        ("record_input = true", "record_input", ["no effect", "record ="]),
        ("allow = [\"forward-local\"]\nforward_to = [\"10.0.0.0/8\"]", "forward_to[0]", ["has no port", "10.0.0.0/8:*"]),
        ("allow = [\"forward-local\"]\nforward_to = []", "forward_to", ["is empty", "leave the key out"]),
        ("forward_to = [\"10.0.0.0/8:*\"]", "forward_to", ["allows none", "forward-local"]),
        ("allow = [\"nested_ssh\"]", "allow[0]", ["\"nested_ssh\"", "nested-ssh, any"]),
        ("max_sesion = \"8h\"", "max_sesion", ["unknown key", "grants[0].max_session"]),
    ] {
        each_is_refused(&[(&grant(more), &format!("grants[0].{key}"), &words)]);
    }
    let good = grant(
        "allow = [\"shell\", \"forward-local\", \"nested-ssh\", \"any\"]\nports = [3389, \"8000-8100\"]\nfrom = [\"10.0.0.0/8\", \"::1\"]\n\
         hours = \"mon-fri 08:00-20:00 Asia/Shanghai\"\nmax_session = \"8h\"\nrecord = \"required\"\nrecord_input = true\n\
         forward_to = [\"10.0.0.0/8:*\", \"db.internal:5432\", \"localhost:8000-8100\", \"/run/*.sock\"]\n",
    );
    read(&format!("{GSE}{good}"), &[]).unwrap();
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let text = format!("{GSE}secret_id_file = \"/x\"\nsecret_key_file = \"Gu5t9xGARN\"\nendpoint = \"https://a:Gu5t9xGARN@h\"\n{GRANT}");
    let errors = lines(&read(&text, &[]).unwrap_err().errors);
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].contains("gse.endpoint") && errors[0].contains("user information"), "{errors:#?}");
    assert!(errors[1].contains("gse.secret_key_file") && errors[1].contains("never the secret itself"), "{errors:#?}");
    assert!(!errors.concat().contains("Gu5t9xGARN"), "{errors:#?}");
    each_is_refused(&[
        ("[gse]\nsecret_id_file = \"/x\"", "gse.secret_key_file", &["is missing", "gse.secret_id_file needs it"]),
        ("[gse]\nsecret_key_file = \"/x\"", "gse.secret_id_file", &["is missing", "gse.secret_key_file needs it"]),
        ("[gse]\ntoken_file = \"/x\"", "gse.token_file", &["stands alone", "secret_id_file"]),
    ]);
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = "state_dir = 1\nnonsense = 1\n[gse]\nrequests_per_second = 0\n[[grants]]\noperators = [\"@x\"]\ntargets = [\"X\"]\n";
    let keys: Vec<_> = read(text, &[]).unwrap_err().errors.into_iter().map(|problem| problem.key).collect();
    let expected = ["state_dir", "grants[0].operators[0]", "grants[0].targets[0]", "gse.region", "gse.requests_per_second", "nonsense"];
    assert_eq!(keys, expected);
}

#[test]
fn what_is_no_toml_or_not_there_is_one_error() {
    let errors = lines(&read("[gse]\nregion = \"a\nsecret = 1", &[]).unwrap_err().errors);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].starts_with("broker.toml: is not TOML: at line 2, column "), "{errors:#?}");
    assert!(read("[gse]\nregion = \"a\"\nregion = \"b\"", &[]).is_err());

    let findings = Draft::read(Path::new("/nonexistent/broker.toml"), Vec::new()).finish().unwrap_err();
    assert_eq!(findings.errors.len(), 1, "{findings:#?}");
    let error = findings.errors[0].to_string();
    assert!(error.starts_with("/nonexistent/broker.toml: cannot read") && error.contains("--config"), "{error}");
}

#[test]
fn warnings_do_not_refuse() {
    let warned = |text: &str, key: &str, word: &str| {
        let (_, warnings) = read(text, &[]).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert!(warnings[0].key == key && warnings[0].text.contains(word), "{warnings:#?}");
    };
    warned(GSE, "grants", "nobody can reach anything");
    warned(&format!("{GSE}requests_per_second = 21\n{GRANT}"), "gse.requests_per_second", "documents");
    warned(&format!("{GSE}call_timeout = \"30s\"\n{GRANT}"), "gse.call_timeout", "gse.deadline");
    warned(&format!("{GSE}{GRANT}[listen]\naddresses = [\"[::]:0\"]"), "listen.addresses[0]", "port 0");
}

#[test]
fn administrators_are_operators_or_their_groups() {
    each_is_refused(&[
        ("[operators]\nadministrators = [\"*\"]", "operators.administrators[0]", &["everybody", "\"@group\""]),
        ("[operators]\nadministrators = [\"@oncal\"]", "operators.administrators[0]", &["is no group"]),
        ("[operators]\nadministrators = \"alice\"", "operators.administrators", &["write a list"]),
        ("[operators]\nadministrators = [\"a b\"]", "operators.administrators[0]", &["is not an operator name"]),
    ]);
    let text = format!("[operators]\ngroups = {{ oncall = [\"bob\"] }}\nadministrators = [\"alice\", \"@oncall\"]\n{GSE}{GRANT}");
    let (settings, _) = read(&text, &[]).unwrap();
    let is = |name: &str| settings.policy.is_administrator(&crate::access::OperatorName::parse(name).unwrap());
    assert_eq!(["alice", "bob", "carol"].map(is), [true, true, false]);
}
