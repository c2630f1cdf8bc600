/* tests/unit/net/certificates.h -- self-signed, good for a century, for tests only. */
#pragma once

#define DEFAULT_CERT                                                                                         \
    "-----BEGIN CERTIFICATE-----\n"                                                                          \
    "MIIBwDCCAWagAwIBAgIUXBDQa9cX6axdhEWnf52tqQur6KkwCgYIKoZIzj0EAwIw\n"                                     \
    "GzEZMBcGA1UEAwwQbWFpbC5leGFtcGxlLm9yZzAgFw0yNjExMjIyMDQ5NDBaGA8y\n"                                     \
    "MTI2MTAyOTIwNDk0MFowGzEZMBcGA1UEAwwQbWFpbC5leGFtcGxlLm9yZzBZMBMG\n"                                     \
    "ByqGSM49AgEGCCqGSM49AwEHA0IABG8puxdDPVEjRBlHbZE/eC7rj2ZIk/X6ehzg\n"                                     \
    "Ra2fbLyGwhS93wk1lQg7ruIZfCLcxan5Ak6G2M+Js+Cdv1Zs6a2jgYUwgYIwHQYD\n"                                     \
    "VR0OBBYEFCxCxjMDxX/wzho132zgaBGzyrrvMB8GA1UdIwQYMBaAFCxCxjMDxX/w\n"                                     \
    "zho132zgaBGzyrrvMA8GA1UdEwEB/wQFMAMBAf8wLwYDVR0RBCgwJoIQbWFpbC5l\n"                                     \
    "eGFtcGxlLm9yZ4ISKi53aWxkLmV4YW1wbGUub3JnMAoGCCqGSM49BAMCA0gAMEUC\n"                                     \
    "IGSdV/ZtlC9chIIrh/y29IW5n021Vmn8w0M1wkeG5r+hAiEAklUl4sjz42Ymzh9u\n"                                     \
    "/X0MFwOgvQEytUvgpvbUg8gs3sM=\n"                                                                         \
    "-----END CERTIFICATE-----\n"

#define DEFAULT_KEY                                                                                          \
    "-----BEGIN PRIVATE KEY-----\n"                                                                          \
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBWwGLBqnWV1sTrwm\n"                                     \
    "Nw4o9Yd0cHee3ZTQnzHUDFW/IZihRANCAARvKbsXQz1RI0QZR22RP3gu649mSJP1\n"                                     \
    "+noc4EWtn2y8hsIUvd8JNZUIO67iGXwi3MWp+QJOhtjPibPgnb9WbOmt\n"                                             \
    "-----END PRIVATE KEY-----\n"

#define OTHER_CERT                                                                                           \
    "-----BEGIN CERTIFICATE-----\n"                                                                          \
    "MIIBwjCCAWmgAwIBAgIUPMGnyCEVzrE5s6E4ERaJHjMeAmswCgYIKoZIzj0EAwIw\n"                                     \
    "HDEaMBgGA1UEAwwRb3RoZXIuZXhhbXBsZS5uZXQwIBcNMjYxMTIyMjA0OTQwWhgP\n"                                     \
    "MjEyNjEwMjkyMDQ5NDBaMBwxGjAYBgNVBAMMEW90aGVyLmV4YW1wbGUubmV0MFkw\n"                                     \
    "EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEhLONd99QAq2aHsQMKOlKFq1f0EwFe6Wn\n"                                     \
    "TxngaJNttoAKEXTxbN5Y6NJtst1+n1gsNTopvQlWEDL63DMM9gAV+6OBhjCBgzAd\n"                                     \
    "BgNVHQ4EFgQU94G0y4M31CkmMR0Zd1ity9rrKDEwHwYDVR0jBBgwFoAU94G0y4M3\n"                                     \
    "1CkmMR0Zd1ity9rrKDEwDwYDVR0TAQH/BAUwAwEB/zAwBgNVHREEKTAnghFvdGhl\n"                                     \
    "ci5leGFtcGxlLm5ldIISKi53aWxkLmV4YW1wbGUubmV0MAoGCCqGSM49BAMCA0cA\n"                                     \
    "MEQCIGBaDajL/GdO5lc2MM4Wif1BR6o+5x593v4CnPtRxZa1AiBhO9At3vPpciP6\n"                                     \
    "ry6t8Ii0f6OpJkakYijvugUVQXrNiA==\n"                                                                     \
    "-----END CERTIFICATE-----\n"

#define OTHER_KEY                                                                                            \
    "-----BEGIN PRIVATE KEY-----\n"                                                                          \
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgpIMYYtWskgzMRQU+\n"                                     \
    "XHs+2XATgC7V+6lKhAQBavBIdoahRANCAASEs41331ACrZoexAwo6UoWrV/QTAV7\n"                                     \
    "padPGeBok222gAoRdPFs3ljo0m2y3X6fWCw1Oim9CVYQMvrcMwz2ABX7\n"                                             \
    "-----END PRIVATE KEY-----\n"

#define RSA_CERT                                                                                             \
    "-----BEGIN CERTIFICATE-----\n"                                                                          \
    "MIIDMzCCAhugAwIBAgIUSBr27q1hVOEYxUHdU5Kw8SfHbBgwDQYJKoZIhvcNAQEL\n"                                     \
    "BQAwGjEYMBYGA1UEAwwPcnNhLmV4YW1wbGUub3JnMCAXDTI2MTEyMjIwNDk0MFoY\n"                                     \
    "DzIxMjYxMDI5MjA0OTQwWjAaMRgwFgYDVQQDDA9yc2EuZXhhbXBsZS5vcmcwggEi\n"                                     \
    "MA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQDOloygOVXqsMysA5ymEB7R8Vxl\n"                                     \
    "xJWtnRBLeWX4BkPFvbfDgUX5sexbm+SSdzGQwjzAWeaw20ZuVUzPlcNQQvFypAIP\n"                                     \
    "Jn4G0gPHortuXCAc36Rs0EtgYh286/e43qfQLPl4Gy6l8Lgwxnfdc0AxI71v06LK\n"                                     \
    "2XENqb4m+piZKX3P/l0T4SxQPL3zbpxDFpYZ+NBhmRJ52ydDXOuDJbtW6LExB1+g\n"                                     \
    "gMqCkO+aKshf60fpzlT1W/kNqv4FDsdHxMi58+idyIkuZtQVp/zw4nS0oNih0Low\n"                                     \
    "gsBchs2bhf/7d2QjoIZDCzTRxMISNJq9jexE0hTSg1equTkqCU24XtN8OBo1AgMB\n"                                     \
    "AAGjbzBtMB0GA1UdDgQWBBSjwppHL5KS9DrAodwCwMjhQojqkjAfBgNVHSMEGDAW\n"                                     \
    "gBSjwppHL5KS9DrAodwCwMjhQojqkjAPBgNVHRMBAf8EBTADAQH/MBoGA1UdEQQT\n"                                     \
    "MBGCD3JzYS5leGFtcGxlLm9yZzANBgkqhkiG9w0BAQsFAAOCAQEAXzH0k2PMu0TL\n"                                     \
    "Qrx2YIeo3pLqnuqP8vooMYjqZKjyPGiTUMxJXYDGc88g9IRfBrx3blTAdVsoMD6c\n"                                     \
    "u06oHLqYYlJWN6s/8iw8nt+2Nh3E6MgvSmBsf9KDCir2SkR/otcxypG7mHAqZqBo\n"                                     \
    "Cneloi0gyypPhbLOnM+RVTWOYk1rrPCQSSQ7s/r16EJ9DYaI/YV3p1e2+Qik+CMO\n"                                     \
    "T9/qltLiVaUsbBpiZfMQjSix0fQqAiAr7/EavRmI27+pHemejFejRpHYKHu7u/tk\n"                                     \
    "ZvAHRkofrVVwaGvxd6UMY+BmVYn6ZsAr2/bd+TQMURiETUWWFNzL+my5erGVNzDv\n"                                     \
    "AUjWOdKmVg==\n"                                                                                         \
    "-----END CERTIFICATE-----\n"

#define RSA_KEY                                                                                              \
    "-----BEGIN PRIVATE KEY-----\n"                                                                          \
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDOloygOVXqsMys\n"                                     \
    "A5ymEB7R8VxlxJWtnRBLeWX4BkPFvbfDgUX5sexbm+SSdzGQwjzAWeaw20ZuVUzP\n"                                     \
    "lcNQQvFypAIPJn4G0gPHortuXCAc36Rs0EtgYh286/e43qfQLPl4Gy6l8Lgwxnfd\n"                                     \
    "c0AxI71v06LK2XENqb4m+piZKX3P/l0T4SxQPL3zbpxDFpYZ+NBhmRJ52ydDXOuD\n"                                     \
    "JbtW6LExB1+ggMqCkO+aKshf60fpzlT1W/kNqv4FDsdHxMi58+idyIkuZtQVp/zw\n"                                     \
    "4nS0oNih0LowgsBchs2bhf/7d2QjoIZDCzTRxMISNJq9jexE0hTSg1equTkqCU24\n"                                     \
    "XtN8OBo1AgMBAAECggEAHMZQHLpqYtUbZ6jdIdhETV5pTezSzarUgTQN5ZJh0Dd7\n"                                     \
    "qBSSfZQFuut81oBu+/MXaSdcgC0ao0roTFBXiGS6orWAv+wkSP4+893mbhm7iKoH\n"                                     \
    "NKIn+EB8/zp9d6zeV5sGvcRI0WjfuZN7UJy5R97q3O+ae4H2mD5DXm8wisItDvzm\n"                                     \
    "dgNtvjsJjc1R/9a0XRUmViyCd2EVlyA47K72pIbr275XSS6184BaJ1wdVub5GbIo\n"                                     \
    "RNOv4wrOmeGFIY7YJKliBElOAUvVDiY5LuSo89ckbVm/J2TXOUMp3Eu8nEdhCUte\n"                                     \
    "mLweD2KlVMvlrcx3z/MbxKpPXI9YwT5wkkOpBlJpxQKBgQD1e6SAwVsuaGGUFtjJ\n"                                     \
    "mbck2yxpgQv165VmFJlEh/ZDSik8mvGPfjJ5ozrapHAM9ZCP5iO+55E9CI9rPYuX\n"                                     \
    "ctF/nUFG6/lMkUjGvmb9P5WcNWx/mq1APOnPVFe7u/vifLxY6xxjG7Vq+oWQT2pr\n"                                     \
    "ahqCZYpWDKb8XzK0kVc8GfgA+wKBgQDXcFLGrWsdrW199v48H9DMMoAy0GG3jubK\n"                                     \
    "GzGvIHTo58ANs9jcyAvGxN7Ds9Nm++Plto2oq6900RTFbd3LWYuAimx6OplAFCrO\n"                                     \
    "SfNchTkSb61dPpGf7FF5pt7kz9soVtTZYnBc2qgufYQ2dZgrk+9Stv1Jewh4GW6t\n"                                     \
    "/3PJ2IVKjwKBgCgncWEeP6v3pv5yPkO7wRlmQH2BflNblbR86hUrqDyZhOVE8v5l\n"                                     \
    "xhvfd2EMRMfZ4yummXJArqEtJUiFaK/9OAeH0YWoU78ShLT9sBr8q5xBoN2+j1hS\n"                                     \
    "nmwrf65VsX36qVRiIOKVRbeaAv73/pBTasKpmVc5+paNe93NaFeMZ+TBAoGBAMIq\n"                                     \
    "r8/0WEglGDuhMj2KBysikLw7ZvaCyqp4m+zUecm3pTY0U02Y1lRM9uC2398/QoS0\n"                                     \
    "ZTQRmE7WabwOawltKPeuylnXGmvQQUwvBjDquSdOk5coXyMdX8kehmD+nOzcZXWO\n"                                     \
    "7Ooi/9T2twRGM+GCsP2BgwKI6ncjpMcZJohSpr8tAoGAUXnxIrzKiwvAG+HMumSd\n"                                     \
    "FKE4JWboIkfrVWn/Q4k9ph9fL1MHJjJWWthT3blh1VpCK9uxFF5Y0AAzLjjLu+qv\n"                                     \
    "3XGFyhn/3nB0JJdJw2+fenCulpxsIsBXWyROyoHk4sTq7gsvjCkzAScpxIdn7hfs\n"                                     \
    "bzMb92jiuk/BUEJa7IuKr/4=\n"                                                                             \
    "-----END PRIVATE KEY-----\n"
