//! What every sink promises, as one suite: `contract` states it, and each sink's module says which
//! server it is proven against and what can be done to that.
//!
//! | fact | file | webhook | kafka | nats | redis | rabbitmq |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | order of every key, exactly once | x | x | x | x | x | x |
//! | a crash of the agent repeats ids, or nothing where the sink knows duplicates | x | x | x | x | x | x |
//! | a refused message is a dead letter, the rest flows | | x | | x | x | x |
//! | the sink is killed in mid-batch and comes back | | x | x | x | x | x |
//! | the agent stops in time though the sink is frozen | | x | x | x | x | x |
//! | a place that is missing is named, and heals | x | x | | x | x | x |
//! | over TLS, to whom it trusts | | | | x | x | x |
//!
//! A file has neither a server that could end nor an opinion about messages; but it is rotated, and
//! there may be no room for it. The mock Kafka broker
//! makes topics when asked for them, and takes messages of any size.

mod bench;
mod contract;
mod file;
mod kafka;
mod nats;
mod rabbitmq;
mod redis;
mod tls;
mod webhook;
