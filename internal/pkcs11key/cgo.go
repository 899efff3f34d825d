//go:build cgo

package pkcs11key

import (
	"crypto/ed25519"
	"encoding/asn1"
	"errors"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"
	"golang.org/x/mod/sumdb/note"
)

const ckmEdDSA = 0x1057 // PKCS#11 v3.0

// modules are the libraries in use. They stay initialized: C_Finalize would end
// the sessions of every other key.
var modules struct {
	sync.Mutex
	byPath map[string]*pkcs11.Ctx
}

func module(path string) (*pkcs11.Ctx, error) {
	modules.Lock()
	defer modules.Unlock()
	if m := modules.byPath[path]; m != nil {
		return m, nil
	}
	m := pkcs11.New(path)
	if m == nil {
		return nil, fmt.Errorf("%s is no PKCS#11 module that can be loaded", path)
	}
	if err := m.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		m.Destroy()
		return nil, fmt.Errorf("initialize %s: %w", path, err)
	}
	if modules.byPath == nil {
		modules.byPath = map[string]*pkcs11.Ctx{}
	}
	modules.byPath[path] = m
	return m, nil
}

// Key is a log key in a token.
type Key struct {
	note.Verifier
	uri    URI
	vkey   string
	public ed25519.PublicKey

	mu      sync.Mutex
	module  *pkcs11.Ctx
	session pkcs11.SessionHandle
	private pkcs11.ObjectHandle
	open    bool
}

// Open logs in to the token and makes sure, with a signature, that its key can
// sign the log of origin.
func Open(uri, origin string) (*Key, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	k := &Key{uri: u}
	if k.module, err = module(u.Module); err != nil {
		return nil, err
	}
	if err := k.connect(); err != nil {
		return nil, fmt.Errorf("PKCS#11 token: %w", err)
	}
	if k.vkey, err = note.NewEd25519VerifierKey(origin, k.public); err == nil {
		k.Verifier, err = note.NewVerifier(k.vkey)
	}
	if err == nil {
		_, err = k.Sign([]byte("meshaudit tries a key\n"))
	}
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// VerifierKey is the public half, in signed-note form.
func (k *Key) VerifierKey() string { return k.vkey }

// Sign signs with the token; a lost session is opened again, once.
func (k *Key) Sign(msg []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sig, err := k.sign(msg)
	if err != nil {
		k.disconnect()
		if again := k.connect(); again != nil {
			return nil, fmt.Errorf("PKCS#11 token: %w, after %w", again, err)
		}
		sig, err = k.sign(msg)
	}
	if err != nil {
		return nil, fmt.Errorf("sign with the PKCS#11 token: %w", err)
	}
	if !ed25519.Verify(k.public, msg, sig) {
		return nil, errors.New("the PKCS#11 token gave a signature that is not by its key")
	}
	return sig, nil
}

func (k *Key) sign(msg []byte) ([]byte, error) {
	if !k.open {
		return nil, errors.New("the session is closed")
	}
	if err := k.module.SignInit(k.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmEdDSA, nil)}, k.private); err != nil {
		return nil, err
	}
	return k.module.Sign(k.session, msg)
}

// Close ends the session.
func (k *Key) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.disconnect()
}

func (k *Key) disconnect() error {
	if !k.open {
		return nil
	}
	k.open = false
	return k.module.CloseSession(k.session)
}

// connect opens a session and finds the key pair.
func (k *Key) connect() error {
	slot, err := k.slot()
	if err != nil {
		return err
	}
	pin, err := k.uri.pin()
	if err != nil {
		return err
	}
	if k.session, err = k.module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
		return err
	}
	k.open = true
	if err := k.find(pin); err != nil {
		return errors.Join(err, k.disconnect())
	}
	return nil
}

func (k *Key) find(pin string) (err error) {
	if pin != "" {
		if err := k.module.Login(k.session, pkcs11.CKU_USER, pin); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
			return fmt.Errorf("log in: %w", err)
		}
	}
	if k.private, err = k.object(pkcs11.CKO_PRIVATE_KEY, "private"); err != nil {
		return err
	}
	public, err := k.object(pkcs11.CKO_PUBLIC_KEY, "public")
	if err != nil {
		return err
	}
	point, err := k.module.GetAttributeValue(k.session, public, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return fmt.Errorf("not an Ed25519 key: %w", err)
	}
	raw := point[0].Value
	var inner []byte // a DER OCTET STRING around it, in most tokens
	if rest, err := asn1.Unmarshal(raw, &inner); err == nil && len(rest) == 0 {
		raw = inner
	}
	if len(raw) != ed25519.PublicKeySize {
		return errors.New("not an Ed25519 key")
	}
	if k.public != nil && !k.public.Equal(ed25519.PublicKey(raw)) {
		return errors.New("the token has another key now")
	}
	k.public = raw
	return nil
}

// slot finds the one token that the URI names.
func (k *Key) slot() (found uint, err error) {
	slots, err := k.module.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range slots {
		info, err := k.module.GetTokenInfo(s)
		if err != nil || info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		if (k.uri.Token == "" || k.uri.Token == info.Label) && (k.uri.Serial == "" || k.uri.Serial == info.SerialNumber) {
			found = s
			n++
		}
	}
	if n != 1 {
		return 0, fmt.Errorf("%d tokens match the URI, exactly one must; name it by token=LABEL or serial=NUMBER", n)
	}
	return found, nil
}

func (k *Key) object(class uint, what string) (pkcs11.ObjectHandle, error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)}
	if k.uri.Object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.uri.Object))
	}
	if k.uri.ID != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(k.uri.ID)))
	}
	if err := k.module.FindObjectsInit(k.session, template); err != nil {
		return 0, err
	}
	found, _, err := k.module.FindObjects(k.session, 2)
	if err = errors.Join(err, k.module.FindObjectsFinal(k.session)); err != nil {
		return 0, err
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d %s keys match the URI, exactly one must; is the PIN given?", len(found), what)
	}
	return found[0], nil
}
