//! Which random stories a test tells.

/// Seeds for `runs` stories: the same ones each time, so that what fails here fails everywhere. `<name>_SEED` is one of its own,
/// `<name>_RUNS` so many that nobody has told yet, to look for what is still to be found.
pub(crate) fn seeds(name: &str, runs: u64) -> std::ops::Range<u64> {
    let number = |what: &str| {
        let name = format!("{name}_{what}");
        std::env::var(&name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let (first, runs) = match (number("SEED"), number("RUNS")) {
        (Some(seed), _) => (seed, 1),
        (None, Some(runs)) => (fastrand::u64(..1 << 40), runs),
        (None, None) => (0, runs),
    };
    println!("seeds {first} to {}", first + runs - 1);
    first..first + runs
}

/// One story, and what has happened in it: printed where it ends badly.
pub(crate) struct Story {
    name: &'static str,
    seed: u64,
    pub(crate) steps: Vec<String>,
}

impl Story {
    pub(crate) fn new(name: &'static str, seed: u64) -> Self {
        Self { name, seed, steps: Vec::new() }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}_SEED={}\n{}", self.name, self.seed, self.steps.join("\n"));
        }
    }
}
