"""Devices and the processes that drive them: the mesh, peers, chips, compiled programs, signals."""
