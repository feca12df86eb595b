"""The artifact outside the process that made it: fresh processes and the certificate."""
