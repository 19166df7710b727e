use super::Limits;

pub(super) const LIMITS: Limits = Limits {
    connections: 100,
    startups: 50,
    startups_per_source: 40,
    startups_per_netblock: 40,
    attempts: 6,
    sessions: 100,
    sessions_per_operator: 50,
    sessions_per_connection: 10,
    pipe: 1 << 20,
};
