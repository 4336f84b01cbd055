"""Several devices and several processes: mesh and sharding rules, start and agreement, runtime settings."""
