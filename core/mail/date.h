/* core/mail/date.h -- the dates of mail: RFC 5322 3.3 and 4.3 (read tolerantly), IMAP's `date` and
 * `date-time` (RFC 3501 9), and the calendar under them (proleptic Gregorian), without the C library's time
 * functions.
 * Owner:  nobody; pure functions. */
#pragma once
#include "core/civil.h"
#include "core/writer.h"

struct mail_date {
    int64_t utc_s;        /* Seconds since 1970-01-01 00:00:00 UTC. */
    int16_t zone_minutes; /* East of UTC is positive; |zone| < 100 hours. */
};

#define DATE_IMAP_SIZE    26 /* `17-Jul-1996 02:44:25 -0700`: as many bytes, without the quotes. */
#define DATE_RFC5322_SIZE 31 /* `Wed, 17 Jul 1996 02:44:25 -0700`. */

/* The value of a Date field. Weekday, seconds and zone may be missing, comments and blanks are skipped, old
 * years and zone names are known, an unknown zone is UTC, `.` may stand for `:`. False: not a date. */
MUST_CHECK bool date_parse_rfc5322(struct slice text, struct mail_date *date_out);
/* IMAP `date-text`: `1-Feb-1994`, quotes removed by the caller. Gives days since 1970-01-01. */
MUST_CHECK bool date_parse_imap_day(struct slice text, int32_t *day_out);
/* IMAP `date-time`, quotes removed: `17-Jul-1996 02:44:25 -0700`, the day as ` 7` or `07` (or `7`). */
MUST_CHECK bool date_parse_imap_time(struct slice text, struct mail_date *date_out);

/* The day of `date` where it was written, days since 1970-01-01. SENTBEFORE, BEFORE and the like compare
 * these and nothing else (RFC 3501 6.4.4: "disregarding time and timezone"). */
int32_t date_local_day(struct mail_date date);

/* Years outside 0..9999 and zones outside +-99:59 are clamped. */
void date_write_imap(struct writer *w, struct mail_date date); /* DATE_IMAP_SIZE bytes: no quotes. */
void date_write_rfc5322(struct writer *w, struct mail_date date);
