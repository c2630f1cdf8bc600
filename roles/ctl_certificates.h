/* roles/ctl_certificates.h -- `trireme ctl cluster init --certificates DIR --nodes NAME:ROLE[+ROLE],...`: the cluster's own
 * authority and a certificate for each node, as files to copy. Asks no server. Called again it makes what is missing,
 * and never writes over anything: a node is added with the same command.
 *
 *     DIR/ca/{ca.pem,ca.key}                         the authority; it stays where it is
 *     DIR/NAME/{cluster.pem,cluster.key,ca.pem}      all that the node NAME needs
 *
 * A directory appears whole, under its name, or not at all. Directories have mode 0700, files 0600. */
#pragma once
#include "core/base.h"

/* The exit status: 64 for arguments, 65 for files there that do not fit, 73 when something cannot be written. */
int ctl_certificates(const char *directory, const char *nodes, bool json);
