"""Launchers of sweeps, a module each: this machine, SLURM, Kubernetes, TPU VMs."""
