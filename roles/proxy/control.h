/* roles/proxy/control.h -- the proxy's answers to the operator: who is here, and out with them; and what it lacks. */
#pragma once
#include "roles/words/control.h"

void proxy_control_sessions(struct control_page *page);
void proxy_control_revoked(const struct revocations *revoked);
const char *proxy_control_lacks(void);
