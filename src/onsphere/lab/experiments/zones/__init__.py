"""The zone of high sharpness that training has to pass: sharpness along paths, and what other ELRs do from there."""
