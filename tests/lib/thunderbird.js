// Drives Thunderbird from within, as its autoconfig script (whose first line is not read). In the folder that TEST_DRIVER names it finds
// cert.pem and `asked`, a list of [verb, subject], and it writes `told`: what it shows, as JSON.
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const { setTimeout } = ChromeUtils.importESModule("resource://gre/modules/Timer.sys.mjs");
const { IOUtils, PathUtils } = Cu.getGlobalForObject(Services);
const place = name => PathUtils.join(Services.env.get("TEST_DRIVER"), name);
const pause = ms => new Promise(done => setTimeout(done, ms));
const tell = what => IOUtils.writeJSON(place("told"), what, { tmpPath: place("told.new") });

async function eventually(find) {
    for (;;) {
        const found = find();
        if (found) return found;
        await pause(50);
    }
}

async function trustCertificate() {
    const pem = await IOUtils.readUTF8(place("cert.pem"));
    const certificate = Cc["@mozilla.org/security/x509certdb;1"].getService(Ci.nsIX509CertDB)
        .constructX509FromBase64(pem.replace(/-----[^-]+-----/g, "").replace(/\s/g, ""));
    Cc["@mozilla.org/security/certoverride;1"].getService(Ci.nsICertOverrideService)
        .rememberValidityOverride("127.0.0.1", Services.prefs.getIntPref("mail.server.server1.port"), {}, certificate, true);
}

async function keepPassword() {
    const login = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
    login.init("imap://127.0.0.1", null, "imap://127.0.0.1", "u0", "pass", "", "");
    await Services.logins.addLoginAsync(login);
}

// As a click on the message: it is fetched, shown and marked as read.
function show(pane, message) {
    pane.threadTree.selectedIndex = pane.gDBView.findIndexOfMsgHdr(message, true);
}

const verbs = {
    show: (pane, inbox, message) => show(pane, message),
    flag: (pane, inbox, message) => inbox.markMessagesFlagged([message], true),
    delete: (pane, inbox, message) => inbox.deleteMessages([message], null, false, true, null, false),
};

function shown(pane) {
    return pane.messageBrowser?.contentWindow?.getMessagePaneBrowser?.()?.contentDocument?.body?.textContent ?? "";
}

async function work() {
    const root = MailServices.accounts.accounts[0].incomingServer.rootFolder;
    const inbox = await eventually(() => root.getFolderWithFlags(Ci.nsMsgFolderFlags.Inbox));
    const tabs = Services.wm.getMostRecentWindow("mail:3pane").document.getElementById("tabmail");
    const pane = await eventually(() => tabs.currentAbout3Pane?.displayFolder && tabs.currentAbout3Pane);
    pane.displayFolder(inbox.URI);
    for (let done = 0; ; await pause(100)) {
        const messages = [...inbox.messages];
        const asked = (await IOUtils.exists(place("asked"))) ? await IOUtils.readJSON(place("asked")) : [];
        for (; done < asked.length; done++) {
            const [verb, subject] = asked[done];
            if (verb === "quit") return;
            verbs[verb](pane, inbox, messages.find(m => m.mime2DecodedSubject === subject));
        }
        await tell({
            done, shown: shown(pane),
            inbox: messages.map(m => ({ subject: m.mime2DecodedSubject, read: m.isRead, flagged: m.isFlagged })),
        });
    }
}

function at(topic, act) {
    Services.obs.addObserver(async () => {
        try {
            await act();
        } catch (e) {
            await tell({ failed: `${topic}: ${e}\n${e.stack}` });
        }
    }, topic);
}

at("final-ui-startup", async () => {
    await trustCertificate();
    await keepPassword();
});
at("mail-startup-done", async () => {
    await work();
    Services.startup.quit(Ci.nsIAppStartup.eAttemptQuit);
});
