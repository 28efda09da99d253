"""What settings are made of: blocks, rules, types of fields."""
