//! What only `jump://` targets need to know.

use std::collections::BTreeMap;

use ::forward::{CreatePod, JumpOptions};
use adit_core::config::destination::parse_image;
use adit_core::config::unit::parse_duration;
use adit_core::diagnose::Fault;
use adit_core::target::Target;
use clap::Args;

use crate::report::Failure;

/// Options of `jump://` targets.
#[derive(Debug, Args)]
#[command(next_help_heading = "For jump:// targets")]
pub(super) struct JumpArguments {
    /// The container to run socat or nc in [default: the pod's first]
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Make the pod with this image, which has socat or nc, if it is not there; it is removed at the end
    #[arg(long, value_name = "IMAGE")]
    create: Option<String>,
    /// What the pod that is made runs, words with spaces between them [default: sleep infinity]
    #[arg(long, value_name = "WORDS", requires = "create")]
    create_command: Option<String>,
    /// How long the pod that is made may take to be ready
    #[arg(long, value_name = "TIME", requires = "create", default_value = "60s")]
    create_timeout: String,
    /// Leave the pod that was made where it is
    #[arg(long, requires = "create")]
    keep: bool,
}

impl JumpArguments {
    /// The options for `target`, which has to be a jump if there are any.
    pub(super) fn options(&self, target: &Target) -> Result<JumpOptions, Failure> {
        let given = [("--container", self.container.is_some()), ("--create", self.create.is_some())];
        if let (Some((flag, _)), false) =
            (given.into_iter().find(|(_, given)| *given), matches!(target, Target::Jump(_)))
        {
            return Err(Failure::new(
                Fault::Usage,
                format!("{flag} is for jump:// targets"),
                "leave it out, or write jump://CONTEXT/NAMESPACE/pod/NAME/HOST:PORT",
            ));
        }
        let create = self.create.as_deref().map(|image| self.create(image)).transpose()?;
        Ok(JumpOptions { container: self.container.clone(), create })
    }

    fn create(&self, image: &str) -> Result<CreatePod, Failure> {
        let image = parse_image(image).map_err(|problem| {
            let message = format!("--create {image}: not the name of an image");
            Failure::new(Fault::Usage, message, problem.hint.unwrap_or_default())
        })?;
        let timeout = parse_duration(&self.create_timeout).map_err(|_| {
            let message = format!("--create-timeout {}: not a time", self.create_timeout);
            Failure::new(Fault::Usage, message, "write it as 30s or 2m")
        })?;
        let command =
            self.create_command.iter().flat_map(|words| words.split_whitespace()).map(str::to_owned).collect();
        Ok(CreatePod { image, command, timeout, labels: BTreeMap::new(), keep: self.keep })
    }
}

#[cfg(test)]
mod tests {
    use super::super::try_parse;
    use super::*;

    fn options(line: &[&str]) -> Result<JumpOptions, String> {
        let arguments = try_parse(line).unwrap();
        let target = Target::parse(line[0]).unwrap();
        arguments.jump.options(&target).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn a_pod_is_made_as_it_was_asked_for() {
        let line = ["jump://a/b/pod/c/db:1", "--create", "alpine/socat", "--create-command", "sleep 9", "--keep"];
        let create = options(&line).unwrap().create.unwrap();
        assert_eq!((create.image.as_str(), create.command.len(), create.keep), ("alpine/socat", 2, true));
        assert_eq!(create.timeout.as_secs(), 60);
        assert_eq!(options(&["jump://a/b/pod/c/db:1", "--container", "x"]).unwrap().container.as_deref(), Some("x"));
    }

    #[test]
    fn what_is_no_image_or_no_jump_is_refused() {
        assert!(
            options(&["jump://a/b/pod/c/db:1", "--create", "a;b"]).unwrap_err().contains("not the name of an image")
        );
        assert!(options(&["tcp://h:1", "--create", "a"]).unwrap_err().contains("--create is for jump:// targets"));
        assert!(try_parse(&["jump://a/b/pod/c/db:1", "--keep"]).is_err());
    }
}
