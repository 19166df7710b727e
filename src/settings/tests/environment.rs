use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::*;
use crate::access::FleetId;
use crate::upstream::HostKeys;

const FILE: &str = "[gse]\nregion = \"ap-shanghai\"\nssh_port = 2022\nfleet_aliases = { old = \"fleet-old\" }\n\
                    [[grants]]\noperators = [\"*\"]\ntargets = [\"ins-*\"]\n";

#[test]
fn variables_win_over_the_file() {
    let (settings, _) = read(
        FILE,
        &[
            ("SSH_BROKER__GSE__REGION", "12345"),
            ("SSH_BROKER__GSE__SSH_PORT", "12022"),
            ("SSH_BROKER__GSE__FLEETS", "fleet-a, fleet-b"),
            ("SSH_BROKER__GSE__FLEET_ALIASES__PROD", "fleet-a"),
            ("SSH_BROKER__GSE__SSH_PORTS", "fleet-a=1022, fleet-b = 1023"),
            ("SSH_BROKER__STATE_DIR", "/elsewhere"),
            ("SSH_BROKER__LISTEN__ADDRESSES", "127.0.0.1:22"),
            ("SSH_BROKER__CACHE__LEASE_TTL", "5s"),
            ("SSH_BROKER__UPSTREAM__HOST_KEYS", "strict"),
            ("SSH_BROKER__UPSTREAM__ALLOWED_NETWORKS", ""),
            ("SSH_BROKER__OPERATORS__GROUPS__ONCALL", "alice,bob"),
            ("SSH_BROKERX", "not ours"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(settings.gse.region, "12345");
    assert_eq!(settings.upstream.ssh_port, 12022);
    let fleet = |id| FleetId::parse(id).unwrap();
    assert_eq!(settings.gse.fleets, [fleet("fleet-a"), fleet("fleet-b")]);
    assert_eq!(settings.aliases.get("prod"), Some(&fleet("fleet-a")));
    assert_eq!(settings.aliases.get("old"), Some(&fleet("fleet-old")));
    assert_eq!(settings.upstream.ssh_ports.into_iter().collect::<Vec<_>>(), [(fleet("fleet-a"), 1022), (fleet("fleet-b"), 1023)]);
    assert_eq!(settings.state_dir, Path::new("/elsewhere"));
    assert_eq!(settings.upstream.known_hosts, Path::new("/elsewhere/known_hosts"));
    assert_eq!(settings.door.addresses, ["127.0.0.1:22".parse().unwrap()]);
    assert_eq!(settings.cache.lease_ttl, Duration::from_secs(5));
    assert_eq!(settings.upstream.host_keys, HostKeys::Strict);
    assert!(settings.upstream.allowed_networks.is_empty());
}

#[test]
fn what_is_wrong_with_a_variable_is_said_of_the_variable() {
    for (name, value, begins, word) in [
        ("SSH_BROKER__GSE__REGIN", "x", "SSH_BROKER__GSE__REGIN: gse.regin: unknown key", "did you mean gse.region?"),
        ("SSH_BROKER__NONSENSE", "x", "SSH_BROKER__NONSENSE: nonsense: unknown key", "state_dir"),
        ("SSH_BROKER__GSEE__REGION", "x", "SSH_BROKER__GSEE__REGION: gsee: unknown key", "did you mean gse?"),
        ("SSH_BROKER__GSE__REGION__X", "x", "SSH_BROKER__GSE__REGION__X: gse.region: is a table", "ap-shanghai"),
        ("SSH_BROKER__GSE", "x", "SSH_BROKER__GSE: gse: is a string", "[gse]"),
        ("SSH_BROKER__GSE__SSH_PORT", "ssh", "SSH_BROKER__GSE__SSH_PORT: gse.ssh_port: \"ssh\" is not a number", "from 1 to 65535"),
        ("SSH_BROKER__GSE__SSH_PORT", "", "SSH_BROKER__GSE__SSH_PORT: gse.ssh_port: \"\" is not a number", "65535"),
        ("SSH_BROKER__GSE__SSH_PORTS", "fleet-a", "SSH_BROKER__GSE__SSH_PORTS: gse.ssh_ports.fleet-a: \"\" is not", "65535"),
        ("SSH_BROKER__GSE__FLEETS", "fleet-a,b", "SSH_BROKER__GSE__FLEETS: gse.fleets[1]: \"b\"", "fleet-"),
        ("SSH_BROKER__LISTEN__ADDRESSES", "", "SSH_BROKER__LISTEN__ADDRESSES: listen.addresses: is empty", "[::]:2222"),
        ("SSH_BROKER__GRANTS", "x", "SSH_BROKER__GRANTS: grants: is a string", "in the file"),
        ("SSH_BROKER__gse__region", "x", "SSH_BROKER__gse__region: unknown variable", "SSH_BROKER__GSE__REGION"),
        ("SSH_BROKER__", "x", "SSH_BROKER__: names no key", "SSH_BROKER__GSE__REGION"),
        ("SSH_BROKER__GSE__", "x", "SSH_BROKER__GSE__: names no key", "SECTION__KEY"),
        ("SSH_BROKER__GRANTS[0]", "x", "SSH_BROKER__GRANTS[0]: names no key", "SECTION__KEY"),
    ] {
        let findings = read(FILE, &[(name, value)]).err().unwrap_or_else(|| panic!("accepted: {name}={value}"));
        let errors: Vec<_> = lines(&findings.errors).into_iter().filter(|line| !line.contains("gse.region: is missing")).collect();
        assert_eq!(errors.len(), 1, "{errors:#?}");
        assert!(errors[0].starts_with(begins) && errors[0].contains(word), "{name}: {}", errors[0]);
    }
    let both = [("SSH_BROKER__GSE__FLEET_ALIASES", "a=fleet-a"), ("SSH_BROKER__GSE__FLEET_ALIASES__B", "fleet-b")];
    let errors = lines(&read(FILE, &both).unwrap_err().errors);
    assert!(errors[0].starts_with("SSH_BROKER__GSE__FLEET_ALIASES__B: contradicts SSH_BROKER__GSE__FLEET_ALIASES,"), "{errors:#?}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    fs::write(&file, FILE).unwrap();
    let variable = ("SSH_BROKER__GSE__REGION".into(), OsString::from_vec(vec![b'a', 0xff]));
    let errors = lines(&Draft::read(&file, [variable]).finish().unwrap_err().errors);
    assert_eq!(errors, ["SSH_BROKER__GSE__REGION: is not UTF-8: write plain text"]);
}

#[test]
fn a_missing_region_can_come_from_the_environment_alone() {
    let text = FILE.replace("region = \"ap-shanghai\"\n", "");
    let errors = lines(&read(&text, &[]).unwrap_err().errors);
    assert!(errors.len() == 1 && errors[0].starts_with("broker.toml: gse.region: is missing"), "{errors:#?}");
    assert_eq!(read(&text, &[("SSH_BROKER__GSE__REGION", "ap-tokyo")]).unwrap().0.gse.region, "ap-tokyo");
}
