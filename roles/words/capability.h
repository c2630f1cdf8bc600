/* roles/words/capability.h -- what a backend of this release can do for a session that has logged in: the
 * proxy answers CAPABILITY with it. Only what is complete and tested stands here. */
#pragma once

#define BACKEND_CAPABILITIES                                                                                 \
    "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE NAMESPACE UNSELECT CHILDREN SPECIAL-USE CREATE-SPECIAL-USE "       \
    "LIST-EXTENDED LIST-STATUS IDLE UIDPLUS MOVE CONDSTORE ESEARCH"

static const char backend_capabilities[] __attribute__((unused)) = BACKEND_CAPABILITIES;
