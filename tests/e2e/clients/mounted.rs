//! sshfs: the instance's files as a directory of the operator's.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::lab::{Lab, installed, pattern, succeeded};

#[test]
fn sshfs_mounts_a_directory() {
    if !fs::exists("/dev/fuse").unwrap() {
        eprintln!("SKIPPED, sshfs is NOT tested here: this machine has no /dev/fuse");
        return;
    }
    let sshfs = installed("sshfs");
    let lab = Lab::start();
    let (remote, mount) = (lab.path("remote"), lab.path("mount"));
    fs::create_dir(&remote).unwrap();
    fs::create_dir(&mount).unwrap();
    let mut mounted = lab.program(30, &sshfs);
    mounted.arg("-F").arg(lab.path("ssh_config")).arg(format!("ins-a:{}", remote.display())).arg(&mount);
    succeeded(&mounted.output().unwrap());
    let content = pattern(5 << 20);
    let used = std::panic::catch_unwind(|| {
        fs::write(mount.join("file"), &content).unwrap();
        assert!(fs::read(remote.join("file")).unwrap() == content && fs::read(mount.join("file")).unwrap() == content);
        fs::rename(mount.join("file"), mount.join("renamed")).unwrap();
        symlink("renamed", mount.join("link")).unwrap();
        assert!(fs::read(mount.join("link")).unwrap() == content);
        (0..50).for_each(|i| fs::write(mount.join(format!("{i}")), i.to_string()).unwrap());
        assert_eq!(fs::read_dir(&mount).unwrap().count(), 52);
        fs::File::options().write(true).open(mount.join("renamed")).unwrap().set_len(7).unwrap();
        assert_eq!(fs::metadata(remote.join("renamed")).unwrap().len(), 7);
        fs::remove_file(mount.join("renamed")).unwrap();
        assert!(!remote.join("renamed").exists());
    });
    succeeded(&Command::new("fusermount3").arg("-u").arg(&mount).output().unwrap());
    assert!(used.is_ok());
}
