/* roles/words/capability.h -- what backends can do for a session that has logged in: the proxy answers CAPABILITY with it. Only what is complete and
 * tested stands here.
 *
 * What a release adds has the next feature level. A node says its own in HELLO; the director's table has the lowest of its backends, proxies announce
 * what that level and those below it name. So while releases are mixed nobody is promised what his backend cannot do. */
#pragma once
#include "core/base.h"
#include "net/link/link.h"

#define FEATURE_LEVEL 1 /* Of this release; that of one which does not say so is LINK_FEATURES_UNSAID. */

static const char *const feature_capabilities[FEATURE_LEVEL + 1] __attribute__((unused)) = {
    "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE NAMESPACE UNSELECT CHILDREN SPECIAL-USE CREATE-SPECIAL-USE "
    "LIST-EXTENDED LIST-STATUS IDLE UIDPLUS MOVE",
    "CONDSTORE ESEARCH",
};
_Static_assert(LINK_FEATURES_UNSAID <= FEATURE_LEVEL, "this release can do what that one could");
