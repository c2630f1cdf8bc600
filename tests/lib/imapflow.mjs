// A session of ImapFlow with a server on 127.0.0.1: node imapflow.mjs IMAPS_PORT LMTP_PORT
import assert from 'node:assert/strict';
import net from 'node:net';
import { ImapFlow } from 'imapflow';

const [imaps, lmtp] = process.argv.slice(2).map(Number);
const client = () => new ImapFlow({
    host: '127.0.0.1', port: imaps, secure: true, auth: { user: 'u0', pass: 'pass' }, logger: false,
    tls: { rejectUnauthorized: false, servername: 'localhost' },
});
const letter = i => [
    'From: "Ann Example" <ann@example.org>', 'To: bob@example.com', `Subject: =?UTF-8?Q?Br=C3=BCcke?= ${i}`,
    `Message-ID: <${i}@example.org>`, 'Date: Mon, 02 Feb 2026 12:00:00 +0100', 'MIME-Version: 1.0',
    'Content-Type: multipart/alternative; boundary=b', '', '--b', 'Content-Type: text/plain; charset=utf-8', '',
    `body ${i}`, '--b', 'Content-Type: text/html', '', `<p>body ${i}</p>`, '--b--', '',
].join('\r\n');

async function deliver(text) {
    const socket = net.connect(lmtp, '127.0.0.1');
    let received = '';
    socket.on('data', data => { received += data; });
    const reply = async code => {
        const end = Date.now() + 10000;
        while (!new RegExp(`^${code} .*\r\n`, 'm').test(received)) {
            assert.ok(Date.now() < end, `no ${code}: ${received}`);
            await new Promise(done => setTimeout(done, 5));
        }
        received = '';
    };
    await reply(220);
    for (const [line, code] of [['LHLO x', 250], ['MAIL FROM:<a@example.org>', 250], ['RCPT TO:<u0>', 250],
        ['DATA', 354], [text + '.', 250], ['QUIT', 221]]) {
        socket.write(line + '\r\n');
        await reply(code);
    }
    socket.end();
}

function arrival(c, event, seconds = 20) {
    return new Promise((done, fail) => {
        const timer = setTimeout(() => fail(new Error(`no ${event}`)), seconds * 1000);
        c.once(event, data => { clearTimeout(timer); done(data); });
    });
}

async function all(iterator) {
    const found = [];
    for await (const item of iterator) found.push(item);
    return found;
}

const c = client();
await c.connect();
const folders = await c.list({ statusQuery: { messages: true, unseen: true } });
const use = Object.fromEntries(folders.filter(f => f.specialUse).map(f => [f.specialUse, f.path]));
for (const name of ['\\Drafts', '\\Sent', '\\Trash', '\\Junk', '\\Inbox'])
    assert.ok(use[name], `no folder is ${name}: ${JSON.stringify(use)}`);
assert.equal(folders.find(f => f.path === 'INBOX').status.messages, 0);

assert.equal((await c.mailboxCreate(['Work', 'Brücke'])).created, true);
assert.equal((await c.mailboxCreate(['Work', 'Brücke'])).created, false);
await c.mailboxSubscribe('Work/Brücke');
assert.ok((await c.list()).some(f => f.path === 'Work/Brücke' && f.subscribed && f.parentPath === 'Work'));
await c.mailboxRename('Work/Brücke', 'Work/Ends');
assert.ok((await c.list()).some(f => f.path === 'Work/Ends'));

const uids = [];
for (let i = 1; i <= 5; i++)
    uids.push((await c.append('INBOX', letter(i), i === 2 ? ['\\Seen', '$Label1'] : [], new Date(1760000000000 + i))).uid);
assert.deepEqual(uids, [1, 2, 3, 4, 5]);

const box = await c.mailboxOpen('INBOX');
assert.equal(box.exists, 5);
assert.equal(box.uidNext, 6);
assert.ok(box.permanentFlags.has('\\*') && box.highestModseq > 0n);
const messages = await all(c.fetch('1:*', {
    uid: true, flags: true, envelope: true, bodyStructure: true, internalDate: true, size: true, source: true, headers: ['subject'],
    bodyParts: ['1', 'TEXT'],
}));
assert.equal(messages.length, 5);
for (const [i, m] of messages.entries()) {
    assert.equal(m.envelope.subject, `Brücke ${i + 1}`);
    assert.equal(m.envelope.from[0].name, 'Ann Example');
    assert.equal(m.envelope.from[0].address, 'ann@example.org');
    assert.equal(m.envelope.messageId, `<${i + 1}@example.org>`);
    assert.equal(m.envelope.date.toISOString(), '2026-02-02T11:00:00.000Z');
    assert.equal(m.internalDate.getTime(), 1760000000000);
    assert.equal(m.source.toString(), letter(i + 1));
    assert.equal(m.size, letter(i + 1).length);
    assert.equal(m.bodyStructure.type, 'multipart/alternative');
    assert.deepEqual(m.bodyStructure.childNodes.map(n => n.type), ['text/plain', 'text/html']);
    assert.equal(m.bodyParts.get('1').toString(), `body ${i + 1}`);
    assert.ok(m.headers.toString().startsWith('Subject: =?UTF-8?'));
}
assert.deepEqual([...messages[1].flags].filter(f => f !== '\\Recent').sort(), ['$Label1', '\\Seen']);

const part = await c.download('3', '2', { uid: true });
let html = '';
for await (const chunk of part.content) html += chunk;
assert.equal(html, '<p>body 3</p>');
assert.equal(part.meta.contentType, 'text/html');

assert.deepEqual(await c.search({ seen: true }, { uid: true }), [2]);
assert.deepEqual(await c.search({ or: [{ body: 'body 3' }, { subject: 'brücke 5' }], not: { seen: true } }), [3, 5]);
assert.deepEqual(await c.search({ header: { 'message-id': '<4@example.org>' }, larger: 10, since: new Date('2025-01-01') }), [4]);
assert.deepEqual(await c.search({ keyword: '$Label1' }), [2]);

const modseq = (await c.status('INBOX', { highestModseq: true })).highestModseq;
assert.ok(await c.messageFlagsAdd('1', ['\\Flagged', 'Custom'], { uid: true }));
assert.ok(await c.messageFlagsRemove('2', ['\\Seen']));
assert.ok(await c.messageFlagsSet('3', ['\\Answered']));
const changed = await all(c.fetch('1:*', { uid: true, flags: true, modseq: true }, { changedSince: modseq }));
assert.deepEqual(changed.map(m => m.uid), [1, 2, 3]);
assert.ok(changed.every(m => m.modseq > modseq));
assert.ok(changed[0].flags.has('\\Flagged') && changed[0].flags.has('Custom') && !changed[1].flags.has('\\Seen'));

const copied = await c.messageCopy('1:2', 'Work/Ends');
assert.deepEqual([...copied.uidMap], [[1, 1], [2, 2]]);
const moved = await c.messageMove('4', 'Work/Ends', { uid: true });
assert.deepEqual([...moved.uidMap], [[4, 3]]);
assert.equal(c.mailbox.exists, 4);
assert.ok(await c.messageDelete('5', { uid: true }));
assert.equal(c.mailbox.exists, 3);
const status = await c.status('Work/Ends', { messages: true, uidNext: true, uidValidity: true, unseen: true, highestModseq: true });
assert.equal(status.messages, 3);
assert.equal(status.uidNext, 4);
assert.equal(status.unseen, 3);

// A second client: what one does, the other sees while it idles.
const other = client();
await other.connect();
await other.mailboxOpen('INBOX');
let heard = arrival(c, 'exists');
c.idle();
await new Promise(done => setTimeout(done, 300));
await deliver(letter(6));
assert.deepEqual((({ path, count, prevCount }) => ({ path, count, prevCount }))(await heard), { path: 'INBOX', count: 4, prevCount: 3 });
heard = arrival(c, 'flags');
c.idle();
await new Promise(done => setTimeout(done, 300));
await other.messageFlagsAdd('1', ['\\Deleted']);
assert.ok((await heard).flags.has('\\Deleted'));
heard = arrival(c, 'expunge');
c.idle();
await new Promise(done => setTimeout(done, 300));
assert.ok(await other.messageDelete('1'));
assert.equal((await heard).seq, 1);
assert.equal(c.mailbox.exists, 3);
assert.equal((await c.fetchOne('*', { envelope: true })).envelope.subject, 'Brücke 6');

assert.equal((await c.mailboxDelete('Work/Ends')).path, 'Work/Ends');
await assert.rejects(c.mailboxOpen('Work/Ends'));
await c.mailboxOpen('INBOX', { readOnly: true });
assert.equal(c.mailbox.readOnly, true);
await c.noop();
await other.logout();
await c.logout();
console.log(`ImapFlow: capabilities ${c.enabled.size ? 'enabled ' + [...c.enabled] : 'none enabled'}; all as asserted`);
