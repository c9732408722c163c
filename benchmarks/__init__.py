"""How fast, how cheap and how soon: this worker beside its peers, on private servers. See docs/performance.md."""
