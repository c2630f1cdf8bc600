/* roles/backend/control.h -- the backend's answer to the operator: what is in memory of an account? */
#pragma once
#include "roles/words/control.h"

void backend_control_account(struct control_account *account);
