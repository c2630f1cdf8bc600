/* roles/hash_password.h -- `trireme hash-password [--scheme S]`: a password from the terminal, without echo,
 * or the first line of standard input; its hash on standard output, as a passwd-file takes it. */
#pragma once

/* The exit status. argv[0] is the command's name. */
int hash_password_main(int argc, char **argv);
