"""sbiflow beside its peers: sbi and BayesFlow, in one run on one machine, one thread each."""
