"""Moving in and out: mail from other stores, accounts taken along, accounts erased."""
