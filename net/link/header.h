/* net/link/header.h -- what stands on a wire: the header of every frame, and the HELLO that comes first. Little-endian.
 *
 *     header  type 1 | kind 1 | flags 1 | 0 | stream 4 | value 4 | size 2 | trailer_size 2
 *     RESET   LINK_LOST_ELSEWHERE: behind it, perhaps, partition 2 | epoch 8
 *     HELLO   magic 4 | version 2 | oldest version spoken 2 | instance 8 | roles 1 | lane 1 | name size 1 | name | features 2 (since version 3)
 *
 * A later version may say more behind a HELLO; both ends speak the smaller of their versions.
 * Errors: a decoder takes any bytes and says false to what no node of ours would send. */
#pragma once
#include "net/link/link.h"

/* 3: RESET with LINK_LOST_ELSEWHERE may carry a referral.
 * 2: streams begin with LINK_WINDOW_FIRST, and GRANT; with 1 they had LINK_WINDOW at once. No release has spoken 1. */
#define LINK_VERSION           3
#define LINK_VERSION_OLDEST    2
#define LINK_VERSION_REFERRALS 3
#define LINK_HELLO_MAX         512

enum link_lane { LINK_LANE_SMALL, LINK_LANE_BULK, LINK_LANE_COUNT };

struct link_hello {
    uint16_t version, version_oldest;
    uint8_t lane; /* enum link_lane */
    struct link_node node;
};

void link_referral_encode(const struct link_referral *r, char out[LINK_REFERRAL_SIZE]);
void link_referral_decode(const char in[LINK_REFERRAL_SIZE], struct link_referral *out);

void link_header_encode(const struct link_header *h, char out[LINK_HEADER_SIZE]);
MUST_CHECK bool link_header_decode(const char in[LINK_HEADER_SIZE], struct link_header *out);

size_t link_hello_encode(const struct link_hello *h, char out[LINK_HELLO_MAX]);
MUST_CHECK bool link_hello_decode(struct slice in, struct link_hello *out);
