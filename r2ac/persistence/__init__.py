"""What a run keeps: its folder and who owns it, checkpoints, storage, and where a resumed run begins."""
