//! `sealway audit`: its flags, and the call that they mean.

use std::path::PathBuf;

use clap::Subcommand;

use crate::commands::Trouble;
use crate::commands::audit::verify::Allowed;
use crate::commands::audit::{report, verify};

#[derive(Subcommand)]
pub(super) enum AuditCommand {
    /// Verify that no record was changed, removed, moved or inserted; name the first bad one.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// The audit files, oldest first; - is standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Accept removed, truncated and lost records that the daemon itself has recorded; only
        /// note them.
        #[arg(long)]
        allow_removed: bool,
        /// Do not use FILE.chain of the last file; for rotated files and copies. Missing newest
        /// records are not detected then.
        #[arg(long)]
        no_chain_file: bool,
    },
    /// Summarise by day and user: tunnels, bytes, refusals and failures by code, TLS, the longest
    /// silence.
    #[command(after_help = REPORT_EXAMPLES)]
    Report {
        /// The audit files; - is standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// text, csv or json
        #[arg(long, value_name = "FORMAT", default_value = "text")]
        format: report::Format,
    },
}

impl AuditCommand {
    pub(super) fn execute(self) -> Result<(), Trouble> {
        match self {
            AuditCommand::Verify {
                files,
                allow_removed,
                no_chain_file,
            } => verify::verify(
                &files,
                Allowed {
                    removed: allow_removed,
                    no_chain_file,
                },
            ),
            AuditCommand::Report { files, format } => report::report(&files, format),
        }
    }
}

const VERIFY_EXAMPLES: &str = "Examples:\n  sealway audit verify audit.jsonl\n  sealway audit verify audit.jsonl-20261121 audit.jsonl-20261122 audit.jsonl\n  sealway audit verify --no-chain-file audit.jsonl-20261121\n  zcat audit.jsonl-20261120.gz | sealway audit verify - audit.jsonl-20261121 audit.jsonl\n\nExit status: 0 proved, 1 refuted (standard error names the record), 2 wrong flags or a file that cannot be read.";
const REPORT_EXAMPLES: &str = "Examples:\n  sealway audit report audit.jsonl\n  sealway audit report --format csv audit.jsonl-* audit.jsonl";
