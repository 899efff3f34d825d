package envoy

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// What a caller proved itself by is shown as it came, whichever way it came.
func TestCredentialsAreShown(t *testing.T) {
	const (
		cert = "-----BEGIN%20CERTIFICATE-----%0AMIIB%2B%0A-----END%20CERTIFICATE-----%0A"
		hash = "468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688"
		xfcc = `Hash=00;Cert="old",Hash=` + hash + `;Cert="` + cert + `";Chain="` + cert + `";URI=spiffe://td/a`
		jwt  = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzcGlmZmU6Ly90ZC9hIn0.AAAA" // of spiffe://td/a
	)
	t.Run("a line", func(t *testing.T) {
		lines, err := NewLines(`[%START_TIME%] %RESPONSE_CODE% %DOWNSTREAM_PEER_CERT% %DOWNSTREAM_PEER_FINGERPRINT_256% "%REQ(X-FORWARDED-CLIENT-CERT)%"`, nil)
		require.NoError(t, err)
		for peer, want := range map[string]evidence.Certificate{cert: {Leaf: cert, Hash: hash}, "-": {}} {
			got, err := lines.Decode(nil, new(evidence.Origin), []byte(`[2026-01-02T03:04:05.678Z] 200 `+peer+` `+hash+` "`+xfcc+`"`))
			require.NoError(t, err)
			require.Len(t, got, 1)
			require.NotNil(t, got[0].Shown)
			require.Equal(t, evidence.Credentials{Peer: want, XFCC: evidence.Certificate{Leaf: cert, Chain: cert, Hash: hash}}, *got[0].Shown)
		}
		got, err := lines.Decode(nil, new(evidence.Origin), []byte(`[2026-01-02T03:04:05.678Z] 200 - - "-"`))
		require.NoError(t, err)
		require.Nil(t, got[0].Shown)
	})
	t.Run("headers", func(t *testing.T) {
		for authorization, want := range map[string]string{"Bearer " + jwt: jwt, "bearer  " + jwt + " ": jwt, "DPoP " + jwt: "", "Bearer eyJ.eyJzdWIiOiJhbGljZSJ9.x": "", "Bearer x": "", jwt: ""} {
			var h Headers
			var e evidence.Evidence
			h.Add("Authorization", authorization)
			h.Claims(&e)
			if want == "" {
				require.Nil(t, e.Shown, authorization)
				continue
			}
			require.Equal(t, evidence.Credentials{JWT: want}, *e.Shown)
		}
	})
}
