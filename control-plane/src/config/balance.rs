//! Evening out the load with nobody asking: when, and how often to look.

use std::{ops::RangeInclusive, time::Duration};

use clap::ValueEnum;
use serde::Deserialize;
use tide_daemon::Failure;
use tide_model::rebalance::{Mode, Terms};

use super::File;
use crate::{args::Args, operations::balancer::Balance};

/// What is below this is noise.
const DEFAULT_THRESHOLD: f64 = 1.5;

/// One of the durations: its flag, what it may be, and what to say otherwise.
struct Bounds {
    flag: &'static str,
    default: Duration,
    range: RangeInclusive<Duration>,
    hint: &'static str,
}

/// Long enough for measured rates to have followed what moved. What moved is remembered for a day, so
/// no longer one could be kept.
const COOLDOWN: Bounds = Bounds {
    flag: "--rebalance-cooldown",
    default: Duration::from_mins(30),
    range: SHORTEST..=Duration::from_hours(24),
    hint: "it keeps what has just moved where it is: 30m",
};
const MAX_LAG: Bounds = Bounds {
    flag: "--rebalance-max-lag",
    default: Duration::from_mins(1),
    range: SHORTEST..=Duration::from_hours(24 * 365),
    hint: "nothing is moved while a pipeline is further behind: 1m",
};
const INTERVAL: Bounds = Bounds {
    flag: "--rebalance-interval",
    default: Duration::from_secs(30),
    range: SHORTEST..=Duration::from_hours(1),
    hint: "it is how often to look: 30s",
};
const SHORTEST: Duration = Duration::from_millis(100);

/// What to do about an uneven load with nobody asking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rebalancing {
    /// Whether, and how much of it.
    pub mode: RebalanceMode,
    /// How many times the mean the fullest agent must have.
    pub threshold: f64,
    /// How long anybody's last move must be over.
    pub cooldown: Duration,
    /// How far the worst pipeline may be behind.
    pub max_lag: Duration,
    /// How often to look.
    pub interval: Duration,
}

/// What a control plane does by itself about an uneven load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebalanceMode {
    /// Nothing: somebody asks for a plan
    #[default]
    Off,
    /// Make a plan, keep it, and record that
    Suggest,
    /// Apply the plan
    Auto,
}

impl Default for Rebalancing {
    fn default() -> Self {
        Self {
            mode: RebalanceMode::Off,
            threshold: DEFAULT_THRESHOLD,
            cooldown: COOLDOWN.default,
            max_lag: MAX_LAG.default,
            interval: INTERVAL.default,
        }
    }
}

impl Rebalancing {
    pub(super) fn resolve(args: &Args, file: &File) -> Result<Self, Failure> {
        let threshold = args.rebalance_threshold.or(file.rebalance_threshold);
        let threshold = threshold.unwrap_or(DEFAULT_THRESHOLD);
        // The fullest agent always has as much as the mean.
        if !threshold.is_finite() || threshold <= 1.0 {
            return Err(Failure::usage(format!(
                "--rebalance-threshold is {threshold}, not more than 1"
            ))
            .with_hint(Some(
                "it is how many times the mean the fullest agent must have: 1.5",
            )));
        }
        Ok(Self {
            mode: args.rebalance.or(file.rebalance).unwrap_or_default(),
            threshold,
            cooldown: COOLDOWN.resolve(args.rebalance_cooldown, file.rebalance_cooldown_secs)?,
            max_lag: MAX_LAG.resolve(args.rebalance_max_lag, file.rebalance_max_lag_secs)?,
            interval: INTERVAL.resolve(args.rebalance_interval, file.rebalance_interval_secs)?,
        })
    }
}

impl Bounds {
    fn resolve(&self, typed: Option<Duration>, file: Option<f64>) -> Result<Duration, Failure> {
        let refused = |what: String| Failure::usage(what).with_hint(Some(self.hint));
        let file = file.map(Duration::try_from_secs_f64).transpose();
        let file = file.map_err(|error| refused(format!("{}: {error}", self.flag)))?;
        let duration = typed.or(file).unwrap_or(self.default);
        if self.range.contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (self.range.start(), self.range.end());
        let flag = self.flag;
        Err(refused(format!(
            "{flag} is {duration:?}, outside of {least:?} to {most:?}"
        )))
    }
}

impl From<Rebalancing> for Balance {
    fn from(config: Rebalancing) -> Self {
        let seconds = |duration: Duration| time::Duration::seconds_f64(duration.as_secs_f64());
        Self {
            terms: Terms {
                mode: match config.mode {
                    RebalanceMode::Off => Mode::Off,
                    RebalanceMode::Suggest => Mode::Suggest,
                    RebalanceMode::Auto => Mode::Auto,
                },
                threshold: config.threshold,
                cooldown: seconds(config.cooldown),
                max_lag: seconds(config.max_lag),
            },
            interval: config.interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(args: &Args, file: &str) -> Result<Rebalancing, Failure> {
        Rebalancing::resolve(args, &toml::from_str(file).unwrap())
    }

    #[test]
    fn it_is_off_unless_somebody_wants_it_and_a_flag_wins_over_the_file() {
        let quiet = resolve(&Args::default(), "").unwrap();
        assert_eq!(quiet, Rebalancing::default());
        let args = Args {
            rebalance: Some(RebalanceMode::Auto),
            rebalance_cooldown: Some(Duration::from_secs(5)),
            ..Args::default()
        };
        let file = "rebalance = 'suggest'\nrebalance_threshold = 2.0\nrebalance_cooldown_secs = 9\nrebalance_max_lag_secs = 7.5\n";
        let both = resolve(&args, file).unwrap();
        assert_eq!(both.mode, RebalanceMode::Auto);
        assert!((both.threshold - 2.0).abs() < 1e-9);
        assert_eq!(both.cooldown, Duration::from_secs(5));
        assert_eq!(both.max_lag, Duration::from_millis(7_500));
    }

    #[test]
    fn thresholds_that_are_always_reached_are_refused() {
        for threshold in ["1.0", "0.5", "-1.0", "nan", "inf"] {
            let refused = resolve(
                &Args::default(),
                &format!("rebalance_threshold = {threshold}"),
            );
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("--rebalance-threshold"), "{refused}");
        }
    }

    #[test]
    fn durations_that_make_no_sense_are_refused_with_what_they_are_for() {
        for (key, flag) in [
            ("rebalance_cooldown_secs", "--rebalance-cooldown"),
            ("rebalance_max_lag_secs", "--rebalance-max-lag"),
            ("rebalance_interval_secs", "--rebalance-interval"),
        ] {
            for value in ["-1.0", "0.0", "nan", "1e9"] {
                let refused = resolve(&Args::default(), &format!("{key} = {value}"));
                let refused = refused.unwrap_err().to_string();
                assert!(refused.contains(flag), "{refused}");
                assert!(refused.contains("hint: "), "{refused}");
            }
        }
        let args = Args {
            rebalance_cooldown: Some(Duration::ZERO),
            ..Args::default()
        };
        assert!(resolve(&args, "").is_err());
    }
}
