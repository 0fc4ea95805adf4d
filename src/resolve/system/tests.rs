//! Files that change, break, vanish and come back.

use super::*;
use crate::resolve::hosts::HostsFile;
use crate::resolve::resolv_conf::ResolvConf;

struct Watched<T> {
    folder: tempfile::TempDir,
    followed: Followed<T>,
    notices: Vec<Notice>,
}

impl<T: Format> Watched<T> {
    fn start(text: Option<&str>) -> Self {
        let (folder, mut notices) = (tempfile::tempdir().unwrap(), Vec::new());
        let path = folder.path().join("file");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let followed = Followed::start(path, &mut notices);
        Self {
            folder,
            followed,
            notices,
        }
    }

    fn write(&self, text: &str) {
        std::fs::write(self.folder.path().join("file"), text).unwrap();
    }

    fn remove(&self) {
        std::fs::remove_file(self.folder.path().join("file")).unwrap();
    }

    /// Each look is another one of these.
    fn look(&mut self) -> Look {
        self.followed.look(&mut self.notices)
    }

    fn kinds(&mut self) -> Vec<NoticeKind> {
        self.notices.drain(..).map(|notice| notice.kind).collect()
    }
}

#[test]
fn a_change_is_read_when_two_looks_find_it() {
    let mut file = Watched::<ResolvConf>::start(Some("nameserver 192.0.2.1\n"));
    assert_eq!((file.kinds(), file.look()), (vec![], Look::Same));
    file.write("nameserver 192.0.2.20\n");
    assert_eq!(file.look(), Look::Settling);
    file.write("nameserver 192.0.2.200\n");
    let looks = [file.look(), file.look(), file.look()];
    assert_eq!(looks, [Look::Settling, Look::Changed, Look::Same]);
    assert_eq!(file.kinds(), [NoticeKind::Changed]);
    assert_eq!(file.followed.value().summary(), "name servers 192.0.2.200");
    file.write("# the same\nnameserver 192.0.2.200\n");
    assert_eq!([file.look(), file.look()], [Look::Settling, Look::Same]);
    assert_eq!(file.kinds(), []);
}

#[test]
fn half_a_line_has_two_seconds_to_be_finished() {
    let mut file = Watched::<ResolvConf>::start(Some("nameserver 192.0.2.1"));
    assert_eq!(file.followed.value().summary(), "name servers 192.0.2.1");
    file.write("nameserver 192.0.2.5");
    let looks: Vec<_> = (0..5).map(|_| file.look()).collect();
    assert_eq!(looks, [Look::Settling; 5]);
    let reloaded = file.followed.clone().look_now(&mut file.notices);
    assert_eq!(reloaded, Look::Same, "not by a reload either");
    file.write("nameserver 192.0.2.53\n");
    assert_eq!([file.look(), file.look()], [Look::Settling, Look::Changed]);
    assert_eq!(file.followed.value().summary(), "name servers 192.0.2.53");
    // Some programs never write the end of the last line.
    file.write("nameserver 192.0.2.5");
    let looks = (0..20).map(|_| file.look());
    let settling = looks.take_while(|look| *look == Look::Settling).count();
    assert_eq!(settling, 8);
    assert_eq!(file.followed.value().summary(), "name servers 192.0.2.5");
}

#[test]
fn a_file_that_changes_constantly_is_read() {
    let mut file = Watched::<ResolvConf>::start(Some("nameserver 192.0.2.1\n"));
    let mut changed = 0;
    for number in 1..100 {
        file.write(&format!("nameserver 192.0.2.2\n{}", "#".repeat(number)));
        changed += usize::from(file.look() == Look::Changed);
    }
    assert_eq!(changed, 1);
}

#[test]
fn an_unusable_file_keeps_the_old_settings_and_is_reported_once() {
    let mut file = Watched::<ResolvConf>::start(Some("nameserver 192.0.2.1\n"));
    for act in [
        &|file: &Watched<ResolvConf>| file.write("search example\n"),
        &|file: &Watched<ResolvConf>| file.write(&"#".repeat(70_000)),
        &|file: &Watched<ResolvConf>| file.remove(),
    ] as [&dyn Fn(&Watched<ResolvConf>); 3]
    {
        act(&file);
        let looks = [file.look(), file.look(), file.look()];
        assert_eq!(looks, [Look::Settling, Look::Same, Look::Same]);
        assert_eq!(file.kinds(), [NoticeKind::Kept]);
        assert_eq!(file.followed.value().summary(), "name servers 192.0.2.1");
    }
    // A copy, as a reload makes one, keeps it too and says nothing again.
    assert_eq!(
        file.followed.clone().look_now(&mut file.notices),
        Look::Same
    );
    assert_eq!(file.kinds(), []);
    file.write("nameserver 192.0.2.1\n");
    assert_eq!([file.look(), file.look()], [Look::Settling, Look::Same]);
    assert_eq!(file.kinds(), [NoticeKind::Changed], "it is back");
}

#[test]
fn a_missing_file_is_not_reported() {
    let mut conf = Watched::<ResolvConf>::start(None);
    assert_eq!(conf.kinds(), [NoticeKind::Missing]);
    assert_eq!(conf.followed.value().summary(), "name servers 127.0.0.1");
    conf.write("nameserver 192.0.2.1\n");
    assert_eq!([conf.look(), conf.look()], [Look::Settling, Look::Changed]);
    let mut hosts = Watched::<HostsFile>::start(None);
    assert_eq!(hosts.kinds(), [], "a machine without names");
    hosts.write("192.0.2.1 a.example\n");
    assert_eq!(
        [hosts.look(), hosts.look()],
        [Look::Settling, Look::Changed]
    );
    hosts.remove();
    assert_eq!([hosts.look(), hosts.look()], [Look::Settling, Look::Same]);
    assert_eq!(hosts.kinds(), [NoticeKind::Changed, NoticeKind::Kept]);
    assert!(!hosts.followed.value().is_empty());
}

#[test]
fn a_named_pipe_is_refused_without_waiting() {
    let file = Watched::<HostsFile>::start(Some("192.0.2.1 a.example\n"));
    file.remove();
    let path = file.folder.path().join("file");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    assert!(matches!(file.followed.read(), Err(Unfit::NotRegular)));
}
