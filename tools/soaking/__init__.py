"""Faults at random in a run of several processes, which must end as the undisturbed one does."""
