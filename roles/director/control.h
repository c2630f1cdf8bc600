/* roles/director/control.h -- the director's answer to the operator: is there such a user? */
#pragma once
#include "roles/words/control.h"

void director_control_user(struct control_user *user);
