//! What a pipeline weighs by what it was measured to deliver.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::By;
use crate::{
    UnitName,
    fleet::{DatabaseView, PipelineRow},
};

/// The most that a pipeline can weigh; the catalog checks the same.
pub const MAX_WEIGHT: u32 = 1_000;
/// So many messages a second weigh 1.
const RATE_OF_ONE: f64 = 10.0;

/// What was measured of each unit; one that is not there delivers nothing worth mentioning.
pub type Costs = BTreeMap<UnitName, UnitCost>;

/// What was measured of one unit, and whether that counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnitCost {
    /// Messages a second, over the last minutes.
    pub rate: f64,
    /// Whether its configuration says what it weighs, whatever is measured.
    pub configured: bool,
}

/// What one unit weighs before a plan and with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitWeight {
    /// The unit.
    pub pipeline: UnitName,
    /// In force.
    pub before: u32,
    /// With the plan.
    pub after: u32,
    /// The messages a second that it follows from; none if nothing was measured or asked.
    pub rate: Option<f64>,
}

impl UnitWeight {
    /// Whether the plan changes it.
    pub fn is_changed(&self) -> bool {
        self.before != self.after
    }
}

/// What each enabled unit should weigh.
pub(super) fn wanted(view: &DatabaseView, by: By, costs: &Costs) -> BTreeMap<UnitName, u32> {
    let enabled = view.pipelines.iter().filter(|row| row.enabled);
    enabled
        .map(|row| {
            let cost = costs.get(&row.name);
            let weight = match (by, cost) {
                (By::Weight, _) => row.weight,
                (By::Load, Some(cost)) if cost.configured => row.weight,
                (By::Load, cost) => by_rate(cost.map_or(0.0, |cost| cost.rate), row.weight),
            };
            (row.name.clone(), weight)
        })
        .collect()
}

/// The weights of a plan, without those that are 1 and stay so.
pub(super) fn weights(
    view: &DatabaseView,
    wanted: &BTreeMap<UnitName, u32>,
    costs: &Costs,
) -> Vec<UnitWeight> {
    let enabled = view.pipelines.iter().filter(|row| row.enabled);
    let weight = |row: &PipelineRow| UnitWeight {
        pipeline: row.name.clone(),
        before: row.weight,
        after: wanted.get(&row.name).copied().unwrap_or(row.weight),
        rate: costs.get(&row.name).map(|cost| cost.rate),
    };
    enabled
        .map(weight)
        .filter(|weight| (weight.before, weight.after) != (1, 1))
        .collect()
}

/// The weight for a rate: the nearest power of two, so that what differs a little weighs the same.
/// The one in force stays until it is wrong by more than a factor of two, which lies well beyond the
/// noise around the power that was chosen: no rate can sit on the edge between two weights.
fn by_rate(rate: f64, in_force: u32) -> u32 {
    let most = f64::from(MAX_WEIGHT);
    let measured = (rate.max(0.0) / RATE_OF_ONE).clamp(1.0, most);
    let kept = f64::from(in_force);
    if (kept / 2.0..=kept * 2.0).contains(&measured) {
        return in_force;
    }
    measured.log2().round().exp2().clamp(1.0, most) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_weight_follows_the_rate_in_powers_of_two_and_stays_while_it_is_about_right() {
        for (rate, in_force, weight) in [
            (0.0, 1, 1),
            (19.9, 1, 1),
            (40.0, 1, 4),
            (1_000.0, 1, 128),
            (1_000.0, 64, 64),
            (1_000.0, 200, 200),
            (1_000.0, 256, 128),
            (1e9, 1, MAX_WEIGHT),
            (1e9, MAX_WEIGHT, MAX_WEIGHT),
            (0.0, 2, 2),
            (0.0, 4, 1),
            (f64::NAN, 1, 1),
        ] {
            assert_eq!(by_rate(rate, in_force), weight, "{rate} {in_force}");
        }
    }

    proptest! {
        #[test]
        fn a_weight_that_was_chosen_stays_under_noise(rate in 0.0..20_000.0_f64, noise in 0.75..1.33_f64, before in 1..MAX_WEIGHT) {
            let chosen = by_rate(rate, before);
            prop_assert_eq!(by_rate(rate, chosen), chosen);
            // One that was just taken over has the nearest power; one that was kept may be near its edge.
            if chosen != before {
                prop_assert_eq!(by_rate(rate * noise, chosen), chosen);
            }
        }
    }
}
