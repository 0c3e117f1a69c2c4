"""What the experiments share: settings, the loop, the workdir, the report."""
