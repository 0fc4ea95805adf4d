//! Reads the configuration at the start and at a reload, with the state of its files, for
//! `reload.watch`. Applies nothing.
//!
//! The state of a file is noted before it is read, so the next check finds a change during a
//! reload.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use super::Origin;
use super::watch::Seen;
use crate::config::Config;
use crate::config::allow_files::Pattern;
use crate::config::contents::{Contents, Kept};
use crate::config::file::Problem;
use crate::config::read::{self, ReadError, Secrecy};

impl Origin {
    /// The state of the files before the last reading.
    pub(super) fn seen(&self) -> Seen {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    /// Reads the configuration, and stores the state of its files before the reading. After a
    /// refusal it also stores the state of the files in force, because a change of either is worth
    /// another try.
    ///
    /// A file that cannot be read keeps its content in force ([`Config::kept`]). Before a content is
    /// kept, a reload is refused for a file that cannot be read, or a pattern loses a file, all
    /// files are read once more: somebody may be replacing one. At the start no content is in force.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn load(&self, in_force: Option<&Config>) -> Result<Config, Vec<Problem>> {
        self.load_pausing(in_force, || std::thread::sleep(REPLACED_WITHIN))
    }

    /// Like [`Origin::load`], with this pause before the second reading.
    fn load_pausing(
        &self,
        in_force: Option<&Config>,
        pause: impl Fn(),
    ) -> Result<Config, Vec<Problem>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path.as_deref();
        let former = in_force.map_or_else(Arc::default, |config| Arc::clone(&config.contents));
        let in_force = in_force.map_or(&[][..], |config| &config.files);
        let mut files: Vec<Pattern> = path.map(Pattern::of_file).into_iter().collect();
        add(&mut files, in_force);
        add(&mut files, seen.files());
        let (mut has_read, mut has_waited) = (false, false);
        loop {
            let before = Seen::now(&files);
            let (config, problems) = match self.read(&former) {
                Ok(read) => read,
                Err(problem) => {
                    *seen = before;
                    return Err(vec![problem]);
                }
            };
            let known = files.len();
            add(&mut files, &config.files);
            if config.watch && files.len() > known && !has_read {
                // The configuration names files whose earlier state is unknown: read it again.
                has_read = true;
                continue;
            }
            if !has_waited && may_be_replaced(&config, &problems, &former) {
                has_waited = true;
                pause();
                continue;
            }
            return if problems.is_empty() {
                *seen = before.only(&config.files);
                Ok(config)
            } else {
                let mut kept = config.files;
                add(&mut kept, path.map(Pattern::of_file).iter());
                add(&mut kept, in_force);
                *seen = before.only(&kept);
                Err(problems)
            };
        }
    }

    /// Reads all files once.
    fn read(&self, former: &Arc<Contents>) -> Result<(Config, Vec<Problem>), Problem> {
        let path = self.path.as_deref().unwrap_or(Path::new(""));
        let (text, kept) = match &self.path {
            None => (Arc::default(), None),
            Some(path) => text_or_former(path, former)?,
        };
        let (mut config, problems) = Config::read_after(path, &text, &self.overrides, former);
        // First, because pages name only the first ones.
        config.kept.splice(..0, kept);
        Ok((config, problems))
    }
}

/// Whether a file that a reload read before, or that its new configuration names, is not there or
/// cannot be read. Always false at the start, which the operator can repeat.
fn may_be_replaced(config: &Config, problems: &[Problem], former: &Contents) -> bool {
    let is_reload = former.text().is_some();
    let is_unread = || problems.iter().any(|problem| problem.cause.is_some());
    is_reload && (!config.kept.is_empty() || is_unread() || config.contents.misses_files_of(former))
}

/// Reads the configuration itself; takes the text in force if it cannot be read.
fn text_or_former(path: &Path, former: &Contents) -> Result<(Text, Option<Kept>), Problem> {
    match (read::read(path, Secrecy::Public), former.text()) {
        (Ok(content), _) => Ok((Arc::new(content.text), None)),
        (Err(ReadError::Missing(error) | ReadError::System(error)), Some(text)) => {
            let kept = Kept {
                file: path.to_owned(),
                key: String::new(),
                error: Arc::new(error),
            };
            Ok((text, Some(kept)))
        }
        (Err(error), _) => Err(Problem::unreadable(path, &error)),
    }
}

/// The text of a configuration.
type Text = Arc<Zeroizing<String>>;

fn add<'p>(files: &mut Vec<Pattern>, more: impl IntoIterator<Item = &'p Pattern>) {
    for pattern in more {
        if !files.contains(pattern) {
            files.push(pattern.clone());
        }
    }
}

/// The rename of a replacement follows within this time where a program moves the old file away
/// first.
const REPLACED_WITHIN: Duration = Duration::from_millis(250);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    /// A configuration in a folder of its own, and a file of rules.
    struct Files {
        folder: tempfile::TempDir,
        origin: Origin,
    }

    impl Files {
        fn with(config: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = Some(folder.path().join("sealway.toml"));
            let origin = Origin {
                path,
                ..Origin::default()
            };
            let files = Self { folder, origin };
            files.write("sealway.toml", config);
            files.write("a.txt", "a.example\n");
            files
        }

        fn at(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.at(name), text).unwrap();
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.at(from), self.at(to)).unwrap();
        }

        /// Reloads without a pause.
        fn reload(&self, in_force: &Config) -> Config {
            self.origin.load_pausing(Some(in_force), || ()).unwrap()
        }
    }

    /// Some programs move the old file away before the new one gets its name.
    #[test]
    fn a_file_that_is_being_replaced_is_read_after_its_replacement() {
        let files = Files::with("policy.allow_files = [\"a.txt\"]\n");
        let start = files.origin.load(None).unwrap();
        files.rename("a.txt", "aside");
        let replace = || files.rename("aside", "a.txt");
        let loaded = files.origin.load_pausing(Some(&start), replace).unwrap();
        assert!(loaded.kept.is_empty());
    }

    #[test]
    fn the_configuration_itself_keeps_its_text() {
        let files = Files::with("policy.allow_files = [\"a.txt\"]\n");
        let start = files.origin.load(None).unwrap();
        fs::remove_file(files.at("sealway.toml")).unwrap();
        files.write("a.txt", "b.example\n");
        let reloaded = files.reload(&start);
        assert_eq!(reloaded.kept.len(), 1);
        assert_ne!(reloaded.policy.hash(), start.policy.hash());
        assert_eq!(
            files.reload(&reloaded).policy.hash(),
            reloaded.policy.hash()
        );
        assert!(files.origin.load(None).is_err(), "a start");
    }

    /// The same for a file that was never read under its name, and for the files of a pattern.
    #[test]
    fn a_new_name_and_a_folder_are_read_after_their_replacement() {
        for (from, to) in [
            ("a.txt", "b.txt"),
            ("hosts.d/c.txt", "hosts.d/c.txt"),
            ("hosts.d", "hosts.d"),
        ] {
            let config =
                |name: &str| format!("policy.allow_files = [{name:?}, \"hosts.d/*.txt\"]\n");
            let files = Files::with(&config("a.txt"));
            fs::create_dir(files.at("hosts.d")).unwrap();
            files.write("hosts.d/c.txt", "c.example\n");
            let start = files.origin.load(None).unwrap();
            if from != to {
                files.write("sealway.toml", &config(to));
            }
            files.rename(from, "aside");
            let replace = || files.rename("aside", to);
            let loaded = files.origin.load_pausing(Some(&start), replace).unwrap();
            assert!(loaded.kept.is_empty(), "{from} to {to}");
            assert_eq!(loaded.policy.hash(), start.policy.hash(), "{from} to {to}");
        }
    }

    #[test]
    fn a_file_of_a_pattern_that_stays_away_has_no_rules() {
        let files = Files::with("policy.allow_files = [\"*.txt\"]\n");
        let start = files.origin.load(None).unwrap();
        fs::remove_file(files.at("a.txt")).unwrap();
        let reloaded = files.reload(&start);
        assert_eq!(reloaded.kept.len(), 0);
        assert_ne!(reloaded.policy.hash(), start.policy.hash());
    }

    /// A configuration may be empty: flags and variables say all. It is named before other files,
    /// because pages name only the first ones.
    #[test]
    fn an_empty_configuration_keeps_its_text_and_is_named_first() {
        for text in ["", "policy.allow_files = [\"a.txt\"]\n"] {
            let files = Files::with(text);
            let start = files.origin.load(None).unwrap();
            fs::remove_file(files.at("sealway.toml")).unwrap();
            fs::remove_file(files.at("a.txt")).unwrap();
            let reloaded = files.reload(&start);
            let kept: Vec<_> = reloaded.kept.iter().map(|kept| &kept.file).collect();
            assert_eq!(kept.first(), Some(&&files.at("sealway.toml")), "{text:?}");
            assert_eq!(reloaded.policy.hash(), start.policy.hash(), "{text:?}");
        }
    }
}
