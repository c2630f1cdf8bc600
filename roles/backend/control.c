#include "roles/backend/control.h"
#include "roles/backend/backend.h"

void backend_control_account(struct control_account *account)
{
    struct backend *b = backend_self();

    if (b == NULL)
        return;
    account->modseq = store_user_modseq(b->store, account->user);
    account->loaded = account_loaded(b->store, account->user);
}
