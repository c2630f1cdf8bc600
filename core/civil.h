/* core/civil.h -- the calendar (proleptic Gregorian), without the C library's locks and time zones.
 * Owner: nobody; pure functions. */
#pragma once
#include "core/base.h"

struct civil_date {
    int32_t year;       /* 1900..9999 in everything that is parsed. */
    uint8_t month, day; /* From 1. */
};

int32_t civil_to_days(struct civil_date date); /* Days since 1970-01-01. month and day must be valid. */
struct civil_date civil_from_days(int32_t days);
