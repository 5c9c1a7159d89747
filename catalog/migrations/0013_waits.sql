-- When what waits goes on by itself: the next try of a sink that fails, and the end of a silent agent's lease.

ALTER TABLE tide.relay_consumer_offsets ADD COLUMN retry_at timestamptz;
COMMENT ON COLUMN tide.relay_consumer_offsets.retry_at IS
    'When the sink is tried again, while the state is retrying; none where that is less than a second off, or not known.';

ALTER TABLE tide.agents ADD COLUMN lease interval CHECK (lease > interval '0');
COMMENT ON COLUMN tide.agents.lease IS
    'After so long without a word from its lock session the server ends that session; none of agents that have not said so.';
