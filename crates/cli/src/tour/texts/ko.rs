//! Korean.

use super::{Texts, Told};

pub(super) static TEXTS: Texts = Texts {
    code: "ko",
    heading: "둘러보기: 파드는 호스트와 무엇을 공유하는가",
    intro: "각 단계는 질문을 던지고, 매니페스트를 보여 주고, 무엇을 입력하고 무엇을 기대할지 말한 다음, 실행 중인 시스템이 \
            스스로 설명하게 합니다. `skiff tour`는 노드 세 개짜리 클러스터(`skiff up --nodes 3`)의 전용 네임스페이스에서 \
            이를 한 단계씩 실행하고, 끝나면 뒷정리를 합니다. 이미지 `alpine`과 `luksa/kubia`는 docker.io에서 \
            오거나(`skiff up --uplink`) 미리 적재합니다(`skiff image load`). `$NODE_A`와 `$NODE_B`는 파드를 받는 두 \
            노드, `$IP_A`와 `$IP_B`는 그 주소, `$M`은 매니페스트가 있는 디렉터리, `$CLUSTER`는 클러스터 이름입니다.",
    question: "질문:",
    manifest: "매니페스트",
    typed: "입력:",
    expect: "기대 결과:",
    explained: "시스템의 설명:",
    press_enter: "Enter를 누르면 계속, q와 Enter를 누르면 멈춥니다",
    resumes: "지난번에 멈춘 곳에서 이어 갑니다",
    as_expected: "기대한 대로입니다",
    not_as_expected: "기대와 다릅니다",
    stopped: "멈췄습니다. `skiff tour`로 이어서 볼 수 있고, `skiff tour --clean`은 만든 것을 모두 지웁니다.",
    done: "둘러보기가 끝났습니다. 만든 것은 모두 지웠습니다.",
    steps: &[
        Told {
            id: "A1",
            title: "pause 컨테이너",
            question: "컨테이너가 생기고 사라지는 동안 파드의 네임스페이스는 무엇이 붙들고 있을까요?",
            expect: "노드 대역의 주소를 가진 파드, 그리고 컨테이너 옆에 `pause`라는 샌드박스.",
            explained: "모든 네임스페이스와 inode. 네트워크, IPC, 호스트 이름은 `pause`가 붙들고 있어서 컨테이너보다 오래 남습니다.",
        },
        Told {
            id: "A2",
            title: "컨테이너 둘, 네트워크 하나",
            question: "한 파드의 두 컨테이너는 서로를 어떻게 찾을까요?",
            expect: "둘째 컨테이너가 127.0.0.1에서 첫째 컨테이너의 서버를 찾습니다. 둘은 같은 네트워크 네임스페이스에 있습니다.",
            explained: "네트워크 네임스페이스는 두 컨테이너가 공유하고, 파일 시스템은 공유하지 않습니다.",
        },
        Told {
            id: "B1",
            title: "브리지",
            question: "파드의 `eth0` 반대쪽 끝은 어디에 달려 있을까요?",
            expect: "노드 대역의 첫 주소를 가진 브리지 `cbr0`, 그리고 다른 노드의 대역마다 경로 하나.",
            explained: "노드 쪽에서 본 모습: 어느 파드가 노드의 어느 네임스페이스를 쓰는지.",
        },
        Told {
            id: "B2",
            title: "노드에서 노드로",
            question: "패킷은 한 파드에서 다른 노드의 파드까지 어떻게 갈까요?",
            expect: "파드 자신의 주소로 온 응답. 도중에 아무것도 변환되지 않습니다.",
            explained: "모든 홉: `eth0`, veth, 브리지, 경로, 다른 노드, 그 브리지, 파드. 그리고 응답이 돌아오는 길.",
        },
        Told {
            id: "C1",
            title: "노드의 네트워크",
            question: "노드의 네트워크를 쓰는 파드는 무엇을 볼까요?",
            expect: "`cbr0`를 포함한 노드의 인터페이스와 노드의 주소.",
            explained: "네트워크 네임스페이스가 호스트의 것으로 표시되고, 무엇이 드러나는지 나옵니다.",
        },
        Told {
            id: "C4",
            title: "포트 하나는 노드마다 한 번",
            question: "호스트 포트가 모든 노드에서 이미 쓰이고 있으면 파드는 어떻게 될까요?",
            expect: "파드는 Pending으로 남고, 스케줄러의 이벤트가 빈 포트가 있는 노드가 없다고 말합니다.",
            explained: "노드별로 어느 파드가 포트를 쥐고 있는지, 그리고 파드를 들일 가장 작은 변경.",
        },
        Told {
            id: "D1",
            title: "hostPort",
            question: "파드의 호스트 포트에는 어느 노드가 응답할까요?",
            expect: "파드가 있는 노드는 파드로 이어지고, 다른 노드는 거절합니다.",
            explained: "파드의 노드에서 변환하는 규칙, 그리고 다른 노드가 거절하는 까닭.",
        },
        Told {
            id: "E1",
            title: "NodePort",
            question: "NodePort는 hostPort와 어떻게 다를까요?",
            expect: "파드가 없는 노드를 포함해 모든 노드가 노드 포트에서 응답하고, 서비스에는 이름이 있습니다.",
            explained: "한 파드의 hostPort, NodePort, ClusterIP를 나란히, 파드가 보는 발신자와 함께.",
        },
        Told {
            id: "F1",
            title: "노드의 프로세스와 메모리",
            question: "`hostPID`와 `hostIPC`를 쓰는 파드는 무엇을 볼까요?",
            expect: "에이전트를 포함한 노드의 프로세스와 노드의 공유 메모리.",
            explained: "몇 개의 프로세스를 보고 신호를 보낼 수 있는지.",
        },
        Told {
            id: "G1",
            title: "거절되는 것",
            question: "문자열 자리에 숫자가 있는 매니페스트는 어떻게 될까요?",
            expect: "필드를 짚는 오류가 나고 파드는 생기지 않습니다. 플랫폼 자신의 부분도 파드가 아닙니다.",
            explained: "각 노드에서 도는 플랫폼의 프로세스.",
        },
        Told {
            id: "H1",
            title: "제한된 컨테이너",
            question: "컨테이너는 얼마나 적게 가질 수 있을까요?",
            expect: "자기 사용자, 권한(capability) 없음, 쓸 수 없는 루트 파일 시스템.",
            explained: "사용자, 권한, seccomp, 그리고 파드가 만족하는 Pod Security 수준: restricted.",
        },
        Told {
            id: "H2",
            title: "지켜지는 네임스페이스",
            question: "그런 파드는 누가 막을까요?",
            expect: "네임스페이스가 baseline 수준을 강제하면 노드의 프로세스를 보는 파드는 거절됩니다.",
            explained: "",
        },
        Told {
            id: "H3",
            title: "격리된 파드",
            question: "누가 파드와 이야기할 수 있을까요?",
            expect: "아무것도 허용하지 않는 정책이 있으면 침묵.",
            explained: "패킷이 어디에서 어느 정책에 의해 버려지는지, 그리고 무엇이 통과시킬지.",
        },
    ],
};
