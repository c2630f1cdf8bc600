/* roles/director/control.h -- the director's answers to the operator: is there such a user, where in the cluster is his mail;
 * and his word that deals the partitions. */
#pragma once
#include "roles/words/control.h"

void director_control_user(struct control_user *user);
void director_control_route(struct control_route *route);
bool director_control_revoke(struct slice user);
void director_control_place(struct control_place *place);
void director_control_exceptions(struct control_exceptions *page);
void director_control_cluster(struct control_cluster *cluster);
