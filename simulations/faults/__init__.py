"""Faults on purpose: processes killed and hung, replies forged, disks full, files torn."""
