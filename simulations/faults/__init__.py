"""Faults on purpose: processes killed, hung and restarted, replies forged, disks full, files torn."""
