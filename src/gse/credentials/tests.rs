use std::fs;
use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::access::Secret;
use crate::gse::CredentialFiles;
use crate::gse::simulated::{Answer, Simulated};

const NOW: i64 = 1_700_000_000;

fn places(variables: &[(&str, &str)], ini: &Path) -> Places {
    let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let find = move |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    Places { files: None, variables: Arc::new(find), ini: vec![ini.to_owned()] }
}

fn files(folder: &Path, id: &str, key: &str) -> CredentialFiles {
    let (secret_id, secret_key) = (folder.join("id"), folder.join("key"));
    fs::write(&secret_id, id).unwrap();
    fs::write(&secret_key, key).unwrap();
    CredentialFiles { secret_id, secret_key, token: None }
}

fn nowhere() -> Metadata {
    Metadata::new(Some("http://127.0.0.1:1/")).unwrap()
}

#[test]
fn the_first_place_that_is_configured_wins() {
    let folder = tempfile::tempdir().unwrap();
    let ini = folder.path().join("credentials");
    fs::write(&ini, "; comment\n[other]\nsecret_id = no\n[default]\nsecret_id = ini-id\n secret_key=ini=key \n").unwrap();
    let read = |places: &Places| places.read().map(|key| key.map(|key| (key.id, key.token.map(|token| token.expose().to_vec()))));
    let set = [("TENCENTCLOUD_SECRET_ID", "env-id"), ("TENCENTCLOUD_SECRET_KEY", "k"), ("TENCENTCLOUD_SECURITY_TOKEN", "t")];

    let mut all = places(&set, &ini);
    assert_eq!(read(&all).unwrap(), Some(("env-id".to_owned(), Some(b"t".to_vec()))));
    all.files = Some(files(folder.path(), "file-id\n", "  key\n"));
    assert_eq!(read(&all).unwrap(), Some(("file-id".to_owned(), None)));
    assert_eq!(places(&[], &ini).read().unwrap().unwrap().key.expose(), b"ini=key");
    assert!(read(&places(&[("TENCENTCLOUD_TOKEN", "alone")], &folder.path().join("absent"))).unwrap().is_none());
}

#[test]
fn a_place_that_is_configured_but_broken_is_named_and_nothing_of_it_shown() {
    let folder = tempfile::tempdir().unwrap();
    let ini = folder.path().join("credentials");
    let message = |places: &Places| places.read().err().map(|error| error.to_string()).unwrap_or_default();
    let absent = folder.path().join("absent");
    for (variables, wanted) in [
        (vec![("TENCENTCLOUD_SECRET_ID", "a")], "TENCENTCLOUD_SECRET_KEY"),
        (vec![("TENCENTCLOUD_SECRET_KEY", "hunter2")], "TENCENTCLOUD_SECRET_ID"),
        (vec![("TENCENTCLOUD_SECRET_ID", " "), ("TENCENTCLOUD_SECRET_KEY", "hunter2")], "TENCENTCLOUD_SECRET_ID: it is empty"),
        (vec![("TENCENTCLOUD_SECRET_ID", "a"), ("TENCENTCLOUD_SECRET_KEY", "hunter2 b")], "TENCENTCLOUD_SECRET_KEY: it must be one word"),
        (vec![("TENCENTCLOUD_SECRET_ID", "a/hunter2"), ("TENCENTCLOUD_SECRET_KEY", "b")], "TENCENTCLOUD_SECRET_ID"),
    ] {
        let error = message(&places(&variables, &absent));
        assert!(error.contains(wanted) && !error.contains("hunter2"), "{error}");
    }
    for (text, wanted) in [
        ("secret_id = a\nsecret_key = hunter2", "no section [default]"),
        ("[default]\nsecret_id = a\nsecretkey = hunter2", "secret_key in [default]"),
    ] {
        fs::write(&ini, text).unwrap();
        let error = message(&places(&[], &ini));
        assert!(error.contains(wanted) && error.contains("credentials") && !error.contains("hunter2"), "{error}");
    }
    let mut both = places(&[("TENCENTCLOUD_SECRET_ID", "a"), ("TENCENTCLOUD_SECRET_KEY", "b")], &ini);
    both.files = Some(files(folder.path(), "id", ""));
    assert!(message(&both).contains("key: it is empty"), "{}", message(&both));
    fs::remove_file(folder.path().join("key")).unwrap();
    assert!(message(&both).contains("/key"), "{}", message(&both));
    both.files = Some(CredentialFiles { secret_id: "/dev/zero".into(), secret_key: "/dev/zero".into(), token: None });
    assert!(message(&both).contains("not a regular file"), "{}", message(&both));
}

#[tokio::test]
async fn files_are_read_again_when_asked_once_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path(), "old", "k");
    let places = Places { files: Some(files), ..places(&[], folder.path()) };
    let credentials = Credentials::load(places, nowhere()).await.unwrap();
    let old = credentials.key(NOW).await.unwrap();
    fs::write(folder.path().join("id"), "new").unwrap();
    assert!(Arc::ptr_eq(&credentials.refresh(&old).await.unwrap(), &old), "it was read this very second");
    tokio::time::sleep(REREAD_PAUSE).await;
    let (one, two) = tokio::join!(credentials.refresh(&old), credentials.refresh(&old));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.id, "new");
    assert!(Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&one, &credentials.key(NOW).await.unwrap()));
}

/// A metadata service whose role's keys expire at the given times, one after another.
async fn role(expiries: Vec<i64>) -> (Simulated, Arc<Mutex<bool>>) {
    let down = Arc::new(Mutex::new(false));
    let is_down = down.clone();
    let service = Simulated::start(move |request, before| {
        if *is_down.lock().unwrap() {
            return Answer::Http(500, String::new(), String::new());
        }
        if request.path == "/creds/" {
            return Answer::json("broker-role\n");
        }
        assert_eq!(request.path, "/creds/broker-role");
        let expires = expiries[(before / 2).min(expiries.len() - 1)];
        Answer::json(format!(
            r#"{{"TmpSecretId":"id-{expires}","TmpSecretKey":"k","Token":"t","ExpiredTime":{expires},"Expiration":"x","Code":"Success"}}"#
        ))
    })
    .await;
    (service, down)
}

fn metadata(service: &Simulated) -> Metadata {
    Metadata::new(Some(&format!("http://{}/creds", service.address))).unwrap()
}

#[tokio::test]
async fn a_roles_key_is_refreshed_before_it_expires_by_one() {
    let absent = Path::new("/nowhere/credentials");
    let (service, down) = role(vec![NOW + 600, NOW + 7200]).await;
    let credentials = Credentials::load(places(&[], absent), metadata(&service)).await.unwrap();
    let first = credentials.key(NOW).await.unwrap();
    assert_eq!((first.id.as_str(), first.token.as_ref().map(Secret::expose)), ("id-1700000600", Some(b"t".as_slice())));
    tokio::time::sleep(REREAD_PAUSE).await;

    *down.lock().unwrap() = true;
    assert!(Arc::ptr_eq(&credentials.key(NOW + 301).await.unwrap(), &first), "still valid, so it does while the service is down");
    assert!(credentials.key(NOW + 601).await.is_err(), "but not once it expired");
    *down.lock().unwrap() = false;
    tokio::time::sleep(REREAD_PAUSE).await;
    let before = service.seen().len();
    let keys = futures_util::future::join_all((0..10).map(|_| credentials.key(NOW + 601))).await;
    assert!(keys.into_iter().all(|key| key.unwrap().id == "id-1700007200"));
    assert_eq!(service.seen().len(), before + 2);
}

#[tokio::test]
async fn a_metadata_service_that_gives_no_key_is_told_with_the_whole_chain() {
    let absent = Path::new("/nowhere/credentials");
    for answer in [
        Answer::json("not a role name"),
        Answer::json("../../user-data"),
        Answer::Http(404, String::new(), String::new()),
        Answer::Http(302, "Location: http://127.0.0.1:1/\r\n".to_owned(), String::new()),
        Answer::Huge(1),
    ] {
        let scripted = answer.clone();
        let service = Simulated::start(move |_, _| scripted.clone()).await;
        let error = Credentials::load(places(&[], absent), metadata(&service)).await.err().unwrap().to_string();
        for place in ["configuration", "TENCENTCLOUD_SECRET_ID", "/nowhere/credentials", "role of this CVM"] {
            assert!(error.contains(place), "{answer:?}: {error}");
        }
        assert_eq!(service.seen().len(), 1);
    }
    let service = Simulated::start(|request, _| match request.path.as_str() {
        "/creds/" => Answer::json("role"),
        _ => Answer::json(r#"{"TmpSecretId":"i","TmpSecretKey":"hunter2","Token":"t","ExpiredTime":1,"Code":"Failed"}"#),
    })
    .await;
    let error = Credentials::load(places(&[], absent), metadata(&service)).await.err().unwrap().to_string();
    assert!(error.contains("other than Success") && !error.contains("hunter2"), "{error}");
}
