"""Models: trained on feature tables at exact versions, registered, scored, monitored."""
