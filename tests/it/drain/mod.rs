//! A drain is a fact or it never happened, whoever dies while it is under way.

mod kills;
mod modes;
mod scene;
