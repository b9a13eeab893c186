//! A monitor whose programs in the kernel are switched off and on by its standard input: a line that begins
//! with `off` or `on`, each answered by the same line once it is so. For `bench monitor`, which measures what they cost connections. Needs root.

fn main() -> std::process::ExitCode {
    match switched::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "adit-monitor-switched: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(all(has_object, feature = "ebpf"))]
mod switched {
    use std::error::Error;
    use std::io::{BufRead as _, Write as _, stdin, stdout};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::thread;
    use std::time::Duration;

    use monitor::agent::Agent;
    use monitor::decode::{Folded, Record};
    use monitor::source::ebpf::Ebpf;
    use monitor::source::{Counts, Options, Source, SourceError, Way};
    use monitor::table::Limits;

    /// As `adit monitor` looks by itself.
    const EVERY: Duration = Duration::from_secs(1);

    /// The source of the agent, which another thread may switch.
    struct Switched {
        source: Arc<Mutex<Ebpf>>,
        way: Way,
    }

    fn hold(source: &Mutex<Ebpf>) -> MutexGuard<'_, Ebpf> {
        source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Source for Switched {
        fn way(&self) -> &Way {
            &self.way
        }

        fn events(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
            hold(&self.source).events(each)
        }

        fn survey(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
            hold(&self.source).survey(each)
        }

        fn reconcile(&mut self) -> Result<(), SourceError> {
            hold(&self.source).reconcile()
        }

        fn folded(&mut self, each: &mut dyn FnMut(Folded)) -> Result<(), SourceError> {
            hold(&self.source).folded(each)
        }

        fn counts(&mut self) -> Result<Counts, SourceError> {
            hold(&self.source).counts()
        }

        fn fill(&self) -> (u32, u32) {
            hold(&self.source).fill()
        }

        fn wait(&self, up_to: Duration) {
            // Not with the source, which would wait to be switched meanwhile. Ends wake nobody.
            thread::park_timeout(up_to);
        }
    }

    pub(super) fn run() -> Result<(), Box<dyn Error>> {
        let source = Ebpf::open(&Options::default())?;
        let way = source.way().clone();
        let source = Arc::new(Mutex::new(source));
        let agent = Agent::new(Box::new(Switched { source: Arc::clone(&source), way }), Limits::default(), EVERY);
        let shared = agent.shared();
        let working = thread::spawn(move || agent.run());
        for line in stdin().lock().lines() {
            let line = line?;
            match line.split(' ').next().unwrap_or_default() {
                word @ ("on" | "off") => hold(&source).switch(word == "on")?,
                other => return Err(format!("no such word: {other}").into()),
            }
            let mut answer = stdout().lock();
            writeln!(answer, "{line}")?;
            answer.flush()?;
        }
        shared.stop();
        Ok(working.join().map_err(|_| "the agent has panicked")??)
    }
}

#[cfg(not(all(has_object, feature = "ebpf")))]
mod switched {
    pub(super) fn run() -> Result<(), &'static str> {
        Err("there are no programs in the kernel here")
    }
}
