//! What users of other fleets complain of, one scenario a complaint: GIVEN the bad day that they had
//! there, THEN what Tide does. The numbers are those of the table in `docs/testing.md`, which also
//! names the scenarios elsewhere that show the rest.
//!
//! Everything is real: processes, PostgreSQL, a control plane, and operators who type `tidectl`.

mod drained;
mod held;
mod reached;
mod shown;
mod stage;
mod unmoved;
mod waiting;
