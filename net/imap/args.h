/* net/imap/args.h -- the arguments of each command: from behind the command's name to before the line end.
 * Private to net/imap. Each writes its member of *p. */
#pragma once
#include "net/imap/lexer.h"

MUST_CHECK bool args_list(struct lexer *lx, struct imap_parsed *p);
MUST_CHECK bool args_lsub(struct lexer *lx, struct imap_parsed *p);
MUST_CHECK bool args_status(struct lexer *lx, struct imap_parsed *p);
MUST_CHECK bool args_search(struct lexer *lx, struct imap_parsed *p);
MUST_CHECK bool args_fetch(struct lexer *lx, struct imap_parsed *p);
MUST_CHECK bool args_store(struct lexer *lx, struct imap_parsed *p);
MUST_CHECK bool args_append(struct lexer *lx, struct imap_parsed *p);
MUST_CHECK bool args_replace(struct lexer *lx, struct imap_parsed *p);
MUST_CHECK bool args_select(struct lexer *lx, struct imap_parsed *p);
MUST_CHECK bool args_create(struct lexer *lx, struct imap_parsed *p);
